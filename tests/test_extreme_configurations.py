"""Configurations with extreme values anywhere: an error of one sentence, or an episode that plays to finite numbers."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from burstenv.cluster import ClusterConfig
from burstenv.config import Config, load, parse, read_yaml, shipped
from burstenv.envs.batch import EnvironmentBatch
from burstenv.envs.scenario import load_scenario
from burstenv.errors import BurstenvError
from burstenv.hardware.gpus_and_models import HardwareConfig, ModelConfig
from burstenv.hardware.latency.entry import load_latency
from burstenv.workload.generator import generate
from burstenv.workload.workload_config import WorkloadConfig
from tests.random_examples import examples

NUMBERS = (0, -1, 1, 2, 3, 17, 1e-9, 1e-3, 0.5, 1e3, 65_536, 10**9, 2**31 - 1, 2**31, 2**63, 2**64, 1e18, 1e-300, 1e308)
OTHERS = (float("nan"), float("inf"), None, "", "x", True, [], {}, [1e9], "1e9", "9" * 400)
MOST_S = 4.0  # of an episode that is played


def every_model() -> list[type[Config]]:
    """All configuration classes of the package, found through the roots that files map to."""
    found: dict[type[BaseModel], None] = {}

    def walk(annotation: Any) -> None:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel) and annotation not in found:
            found[annotation] = None
            for field in annotation.model_fields.values():
                walk(field.annotation)
        for inner in getattr(annotation, "__args__", ()):
            walk(inner)

    from burstenv.agents.config import AgentConfig
    from burstenv.envs.scenario_config import ScenarioConfig

    for root in (ScenarioConfig, AgentConfig, ModelConfig, HardwareConfig):
        walk(root)
    return list(found)  # type: ignore[arg-type]


def numeric(schema: dict[str, Any]) -> bool:
    return schema.get("type") in ("number", "integer") or any(
        numeric(part) for key in ("anyOf", "oneOf") for part in schema.get(key, ())
    )


@pytest.mark.parametrize("model", every_model(), ids=lambda model: model.__name__)
def test_every_number_of_every_model_has_bounds(model):
    for name, schema in model.model_json_schema().get("properties", {}).items():
        if not numeric(schema):
            continue
        for value in (1e13, -1e13, 1e300, 10**30, 1e-300):
            with pytest.raises(ValueError, match=name):
                model.model_validate({name: value})


BOUNDS = {
    "tick_s": 1e-9, "train_loads": [1e9], "load": 1e9, "defer_s": 1e-9, "slo.api.value": 1e308,
    "slo.api.tpot_s": 1e-300,
    "observation.scrape_period_s": 1e-9, "predictor.sigma": 1e3, "episode.duration_s": 1e-12,
    "cluster.replicas.0.count": 10**9, "cluster.replicas.0.num_blocks": 2**31 - 1,
    "cluster.replicas.0.tensor_parallel": 10**9, "cluster.replicas.0.max_model_len": 2**31, "cluster.block_size": 10**6,
    "clients.retries.base_s": 1e-9, "clients.patience.seconds": 1e-9, "workload.days": 10**9,
}  # fmt: skip


def whole_scenario(small_scenario: dict[str, Any]) -> dict[str, Any]:
    """The small scenario with everything written out in one mapping."""
    values = copy.deepcopy(small_scenario)
    values["cluster"] = read_yaml(shipped("clusters")[values["cluster"]])
    workload = read_yaml(shipped("workloads")[values["workload"]])
    values["workload"] = {**workload, "days": 12}
    values["clients"] = {
        "patience": {"kind": "exponential", "seconds": 20.0}, "retries": {"max_retries": 2, "base_s": 0.5},
    }  # fmt: skip
    values["observation"] = {"delay_s": 0.1, "scrape_period_s": 0.2}
    values["predictor"] = {"kind": "lognormal", "sigma": 0.5}
    values["episode"]["duration_s"] = MOST_S
    values["tick_s"], values["defer_s"], values["max_defers"], values["batching_period_s"] = 1.0, 1.0, 1, 0.5
    values["modes"] = ["vllm", {"name": "own", "max_num_seqs": 64, "max_num_batched_tokens": 512, "headroom": 0.1}]
    values["cluster"]["overhead"] = {"per_iteration_ms": 0.1, "per_sequence_ms": 0.01}
    for replica in values["cluster"]["replicas"]:
        replica.update(num_blocks=2_000, max_model_len=16_384)
    return values


def put(values: Any, path: list[Any], value: Any) -> None:
    for part in path[:-1]:
        values = values[part]
    values[path[-1]] = value


@pytest.mark.parametrize("path", BOUNDS)
def test_numbers_beyond_sense_are_refused(path, small_scenario):
    values = whole_scenario(small_scenario)
    put(values, [int(part) if part.isdigit() else part for part in path.split(".")], BOUNDS[path])
    with pytest.raises(BurstenvError, match=path.rsplit(".", 1)[-1]):
        load_scenario(values)


def leaves(values: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all values, mappings and lists too, but not those of long tables of numbers beyond their first two."""
    found = [path] if path else []
    if isinstance(values, dict):
        return found + [leaf for key in values for leaf in leaves(values[key], (*path, key))]
    if isinstance(values, list):
        return found + [leaf for k in range(min(2, len(values))) for leaf in leaves(values[k], (*path, k))]
    return found


def play(values: dict[str, Any]) -> None:
    """Play an episode of a scenario under a random agent, for a bounded number of decisions."""
    scenario = load_scenario(values)
    batch = EnvironmentBatch(1, scenario=scenario, decide=("admission", "routing", "batching"))
    random = np.random.default_rng(0)
    batch.reset(0, random, {"load": min(2.0, scenario.config.load)})
    for _ in range(200):
        if batch.done.all():
            break
        assert np.isfinite(batch.observations).all()
        for k, size in enumerate(batch.layout.sizes):
            batch.actions[0, k] = random.integers(size)
        batch.step()
        assert np.isfinite(batch.rewards).all()


@examples(60)
@given(place=st.floats(0.0, 1.0, exclude_max=True), value=st.sampled_from(NUMBERS + OTHERS), also=st.integers(0, 3))
def test_extreme_values_anywhere_in_a_scenario_are_refused_or_played(place, value, also, small_scenario):
    values = whole_scenario(small_scenario)
    paths = leaves(values)
    put(values, list(paths[int(place * len(paths))]), value)
    if also:  # a second one beside it
        path = paths[int(place * 7919) % len(paths)]
        with contextlib.suppress(KeyError, IndexError, TypeError):
            put(values, list(path), NUMBERS[also])
    try:
        play(values)
    except BurstenvError as error:
        told = str(error)
        assert "\n" not in told
        assert len(told) < 2_500


OTHER_ROOTS: dict[str, type[Config]] = {"hardware": HardwareConfig, "models": ModelConfig, "clusters": ClusterConfig}


@examples(60)
@given(data=st.data(), value=st.sampled_from(NUMBERS + OTHERS))
def test_extreme_values_elsewhere_are_refused_or_understood(data, value):
    from burstenv.agents.config import AgentConfig

    folder = data.draw(st.sampled_from(["hardware", "models", "clusters", "workloads", "latency", "agents"]))
    name = data.draw(st.sampled_from(sorted(shipped(folder))))
    values = read_yaml(shipped(folder)[name])
    put(values, list(data.draw(st.sampled_from(leaves(values)))), value)
    try:
        if folder == "latency":
            latency = load_latency(values)
            assert np.isfinite(latency.iteration_s(512, 131_328, 8, 4_000, 9))
        elif folder == "workloads":
            config = load(WorkloadConfig, folder, values)
            if config.generator is not None and config.days is not None:
                trace = generate(config.generator, min(config.days, 2), 0)
                assert (np.diff(trace.arrival_s) >= 0).all()
                assert trace.prompt_tokens.min() >= 1
        else:
            parse({**OTHER_ROOTS, "agents": AgentConfig}[folder], values, name)
    except BurstenvError as error:
        told = str(error)
        assert "\n" not in told
        assert len(told) < 2_500
