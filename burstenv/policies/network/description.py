"""The description in an agent's file, checked against its weights before compiled code reads either."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from burstenv.config import Config, parse
from burstenv.errors import BurstenvError
from burstenv.policies.background import LEVELS
from burstenv.policies.composite import named_background_rule, parse_composite

COMPONENTS = ("admission", "routing", "batching", "background", "migration")
MOST_REPLICAS = 100_000
MODE = "mode="  # begins the name of a feature that says whether a batching mode is in force
MOST_WEIGHT = 1e6  # a trained weight is below 100; logits stay finite

Text = Annotated[str, Field(max_length=1_000)]
Names = Annotated[list[Annotated[str, Field(min_length=1, max_length=200)]], Field(max_length=1_000)]


class Features(Config):
    """Names of the features, by group."""

    model_config = ConfigDict(strict=True)

    cluster: Names
    request: Names
    replica: Names  # empty for an agent that sees the fleet as a whole


class ActingEnvironment(Config):
    """Keyword arguments of ``EnvironmentBatch`` for an acting agent."""

    model_config = ConfigDict(strict=True)

    decide: Annotated[
        list[Literal["admission", "routing", "batching", "background", "scaling", "migration"]],
        Field(min_length=1, max_length=4),
    ]
    action: Literal["flat", "multi", "count", "offset"]
    observation: Literal["flat", "fleet", "pairs"] = "flat"
    scaling: Text | None = None
    migration: Text | None = None
    admission: Text = "always"
    routing: Text = "jsq"
    batching: Text | None = None
    background: Text | None = None
    privileged: bool = False
    advised: bool = False  # sees the decision of the rules for admission and routing
    reward: Text | None = None


class Description(Config):
    """The data needed to run a network; further fields of exporters are kept and not read."""

    model_config = ConfigDict(extra="ignore", strict=True)

    format: int
    name: Annotated[str, Field(min_length=1, max_length=200)]
    network: Literal["mlp", "shared", "attention"]
    activation: Literal["tanh", "relu"]
    heads: Annotated[list[int], Field(min_length=1, max_length=4)]
    sampled: bool = False
    environment: ActingEnvironment
    scenario: Text
    num_replicas: Annotated[int, Field(ge=1, le=100_000)]
    features: Features
    modes: Annotated[Names, Field(min_length=1)]


def action_heads(decide: Sequence[str], flat: bool, num_modes: int) -> list[int]:
    """Return the heads of a network: choices of each component, 0 for one per replica, -1 for the flat form.

    Of a network that decides about migrations the rows are choices: none, and each ordered pair of replicas.
    """
    sizes = {"admission": 3, "routing": 0, "batching": num_modes, "background": LEVELS, "migration": 0}
    return [-1] if flat else [sizes[name] for name in COMPONENTS if name in decide]


def num_compared(replica: Sequence[str]) -> int:
    """Return how many features of a replica are also given relative to others: all but the modes, which are last."""
    return sum(not name.startswith(MODE) for name in replica)


def check_network(description: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], where: str) -> None:
    """Raise a one-sentence error unless a description agrees with itself and with the weights.

    Args:
        description: See :class:`Description`.
        arrays: Weights by name.
        where: Name of the file in errors.
    """
    _check_weights(check_description(description, where), arrays, where)


def check_description(description: Mapping[str, Any], where: str) -> Description:
    """Return a description, or raise a one-sentence error unless it agrees with itself."""
    told = parse(Description, description, where)
    acting = told.environment
    if "scaling" in acting.decide:
        _check_scaler(told, where)
        return told
    if "migration" in acting.decide:
        _check_migrator(told, where)
        return told
    if acting.action not in ("flat", "multi") or acting.observation != "flat" or acting.scaling is not None:
        raise BurstenvError(f"{where}: action count or offset, observation fleet and scaling need decide [scaling]")
    if acting.migration is not None:
        raise BurstenvError(f"{where}: environment.migration needs decide [migration]")
    if not told.features.replica:
        raise BurstenvError(f"{where}: features.replica is empty")
    flat = acting.action == "flat"
    if acting.advised and not flat:
        raise BurstenvError(f"{where}: environment.advised needs action flat")
    if flat and set(acting.decide) != {"admission", "routing"}:
        raise BurstenvError(f"{where}: environment.action flat needs decide [admission, routing], got {acting.decide}")
    heads = action_heads(acting.decide, flat, len(told.modes))
    if told.heads != heads:
        raise BurstenvError(
            f"{where}: heads are {told.heads}, but an agent that decides {', '.join(acting.decide)} "
            f"({acting.action}) among {len(told.modes)} batching modes has {heads}"
        )
    for group, names in told.features:
        if len(set(names)) != len(names):
            raise BurstenvError(f"{where}: features.{group} names a feature twice")
    modes = [f"{MODE}{mode}" for mode in told.modes]
    if told.features.replica[-len(modes) :] != modes or len(set(modes)) != len(modes):
        raise BurstenvError(f"{where}: features.replica must end with mode=NAME for each of modes, in their order")
    if acting.batching is not None and acting.batching not in told.modes:
        raise BurstenvError(f"{where}: environment.batching {acting.batching!r} is none of modes")
    try:
        parse_composite(f"{acting.admission}/{acting.routing}/{told.modes[0]}")
        if acting.background is not None:
            named_background_rule(acting.background)
    except BurstenvError as error:
        raise BurstenvError(f"{where}: environment: {error}") from None
    return told


def _check_scaler(told: Description, where: str) -> None:
    """Check an agent that decides about the replicas."""
    acting, features = told.environment, told.features
    if acting.decide != ["scaling"] or acting.action not in ("count", "offset") or acting.observation != "fleet":
        raise BurstenvError(
            f"{where}: an agent that decides scaling decides it alone, by action count or offset, and observes fleet"
        )
    if told.network != "mlp" or len(told.heads) != 1 or not 1 <= told.heads[0] <= MOST_REPLICAS:
        raise BurstenvError(f"{where}: an agent that decides scaling is an mlp with one head of 1 to {MOST_REPLICAS}")
    if features.request or features.replica or len(set(features.cluster)) != len(features.cluster):
        raise BurstenvError(f"{where}: an agent that decides scaling has features of the cluster alone, each once")
    _check_rules(told, acting.scaling, where)


def _check_migrator(told: Description, where: str) -> None:
    """Check an agent that decides about migrations."""
    acting, features = told.environment, told.features
    if acting.decide != ["migration"] or acting.action != "multi" or acting.observation != "pairs":
        raise BurstenvError(
            f"{where}: an agent that decides migration decides it alone, by action multi, and observes pairs"
        )
    if told.network == "mlp" or told.heads != [0]:
        raise BurstenvError(f"{where}: an agent that decides migration is a shared or attention network with heads [0]")
    names = features.replica
    if features.request or not names or any(name.startswith(MODE) for name in names) or len(set(names)) != len(names):
        raise BurstenvError(f"{where}: an agent that decides migration has features of cluster and pairs, each once")
    _check_rules(told, acting.migration, where)


def _check_rules(told: Description, further: str | None, where: str) -> None:
    """Check the rules beside an agent that decides about no request."""
    acting = told.environment
    try:
        rules = f"{acting.admission}/{acting.routing}/{acting.batching or told.modes[0]}"
        parse_composite(rules if further is None else f"{rules}/{further}")
    except BurstenvError as error:
        raise BurstenvError(f"{where}: environment: {error}") from None


def _check_weights(told: Description, arrays: Mapping[str, NDArray[Any]], where: str) -> None:
    wanted = _shapes(told, {name: array.shape for name, array in arrays.items()}, where)
    for name in [*wanted, *arrays]:
        if name not in arrays or name not in wanted:
            does, listed = ("lacks" if name in wanted else "has"), ", ".join(wanted)
            raise BurstenvError(f"{where}: {does} weights {name!r:.60}; a {told.network} network has {listed}")
    for name, shape in wanted.items():
        values = arrays[name]
        if values.shape != shape:
            raise BurstenvError(f"{where}: weights {name} are {values.shape}, features and heads need {shape}")
        if values.dtype.kind != "f":
            raise BurstenvError(f"{where}: weights {name} are {values.dtype}, not floating-point numbers")
        if not (np.abs(values) <= MOST_WEIGHT).all():
            raise BurstenvError(f"{where}: weights {name} hold NaN, infinity or a number beyond {MOST_WEIGHT:g}")


def _shapes(told: Description, found: Mapping[str, tuple[int, ...]], where: str) -> dict[str, tuple[int, ...]]:
    """Return the shape of each array of a network; the file sets the widths of its hidden layers."""
    shared, own = len(told.features.cluster) + len(told.features.request), len(told.features.replica)
    prefix = "policy_net" if told.network == "mlp" else "encoder"
    hidden: list[int] = []
    while (shape := found.get(f"{prefix}.{2 * len(hidden)}.bias")) is not None:
        if len(shape) != 1 or shape[0] < 1:
            raise BurstenvError(f"{where}: weights {prefix}.{2 * len(hidden)}.bias are {shape}, not a row of numbers")
        hidden.append(shape[0])

    def linear(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}

    shapes: dict[str, tuple[int, ...]] = {}
    compared = num_compared(told.features.replica)
    inputs = shared + told.num_replicas * own if told.network == "mlp" else shared + own + 2 * compared
    for k, width in enumerate(hidden):
        shapes |= linear(f"{prefix}.{2 * k}", inputs, width)
        inputs = width
    if told.network == "mlp":
        choices = sum(told.num_replicas - head if head <= 0 else head for head in told.heads)
        return shapes | linear("action_net", inputs, choices)
    if not hidden:
        return linear("encoder.0", inputs, 1)
    if told.network == "attention":
        shapes |= {f"attention.{name}.weight": (inputs, inputs) for name in ("query", "key", "value")}
        shapes |= linear("attention.out", inputs, inputs)
    shapes |= linear("context.0", 2 * inputs + shared, inputs)
    shapes |= linear("pooled_logits", inputs, max(1, sum(abs(head) for head in told.heads)))
    shapes |= linear("replica_hidden.0", 2 * inputs, inputs)
    shapes |= linear("replica_logit", inputs, 1)
    return shapes | {"relative_logit.weight": (1, 2 * compared)}
