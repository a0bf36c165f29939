"""What a caller may give a cluster: one sentence says what was wrong, where, and what would be right."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from burstenv._jit.decorators import entry
from burstenv.cluster.background_config import BackgroundConfig
from burstenv.cluster.client_config import Clients, ClientsConfig
from burstenv.cluster.clients import follows
from burstenv.cluster.cluster_config import ModeConfig, ReplicaSpec
from burstenv.cluster.faults.recovery import RecoveryConfig
from burstenv.cluster.flow_config import FlowConfig
from burstenv.cluster.scaling.config import ScalingConfig
from burstenv.cluster.tenants import TenantTable
from burstenv.cluster.transfer_config import TransfersConfig
from burstenv.cluster.world import Arrays, world_of
from burstenv.config import shortly
from burstenv.engine.records import REQUEST
from burstenv.errors import BurstenvError

MOST_DEFERS = 127  # counted in eight bits
LEAST_STEP_S = 1e-6  # of anything that repeats itself
MOST_CLASSES = 127  # numbered in eight bits
MOST_TOKENS = 2**30  # prompt and output together, counted in 32 bits
_RULES = (
    ("arrival_s", "a finite number of at least 0, and not below that of the request before"),
    ("prompt_tokens", "at least 1"),
    ("output_tokens", f"at least 1, and with the prompt {MOST_TOKENS} at most"),
    ("predicted_tokens", "a finite number of at least 0"),
    ("ttft_slo_s", "a number of at least 0"),
    ("tpot_slo_s", "a number of at least 0"),
    ("worth", "a finite number"),
    ("class_code", "the number of a class: 0 (conversation), 1 (api), or as the scenario has them"),
    ("prefix_tokens", "at least 0"),
    ("stream", "at least 0 on a cluster with prefix caching"),
    ("prefix_stream", "at least 0 on a cluster with prefix caching"),
)


def place(value: Any, count: int, what: str) -> int:
    """Return an index into ``count`` things; anything else is an error."""
    try:
        index = operator.index(value)
    except TypeError:
        raise BurstenvError(f"{what} must be a whole number from 0 to {count - 1}, got {value!r}") from None
    if not 0 <= index < count:
        raise BurstenvError(f"{what} must be a whole number from 0 to {count - 1}, got {value!r}")
    return index


def whole(value: Any, what: str, least: int, most: int = 2**31 - 1) -> int:
    """Return a whole number of ``least`` to ``most``; anything else is an error."""
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if not least <= number <= most:
        raise BurstenvError(f"{what} must be a whole number from {least} to {most}, got {value!r}")
    return number


def seconds(value: Any, what: str, least: float = 0.0, most: float = math.inf, finite: bool = True) -> float:
    """Return a time from ``least`` to ``most`` [s]; anything else is an error."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not least <= number <= most or (finite and math.isinf(number)):
        upper = f" to {most:g}" if most < math.inf else ""
        raise BurstenvError(
            f"{what} must be a {'finite ' if finite else ''}number of at least {least:g}{upper}, got {value!r}"
        )
    return number


@entry
def _first_wrong(
    environments, memories, replicas, arenas, requests, gateway, specs, modes, i, num_requests, direct
):  # fmt: skip
    """Return the row of the first request that breaks a rule of ``_RULES``, and which; -1 and 0 if none does."""
    arrays = Arrays(environments, memories, replicas, arenas, requests, gateway, specs, modes)
    world = world_of(arrays, i)
    before_s = 0.0
    caching = False
    for r in range(len(world.specs)):
        caching = caching or world.specs[r].prefix_caching != 0
    for row in range(num_requests):
        request = world.requests[row]
        if not (world.gateway.clients and follows(world, row)):
            if not before_s <= request.arrival_s < np.inf:
                return row, 0
            if not direct:
                before_s = request.arrival_s
        if request.prompt_tokens < 1:
            return row, 1
        if request.output_tokens < 1 or np.int64(request.prompt_tokens) + request.output_tokens > MOST_TOKENS:
            return row, 2
        if not 0.0 <= request.predicted_tokens < np.inf:
            return row, 3
        if not request.ttft_slo_s >= 0.0:
            return row, 4
        if not request.tpot_slo_s >= 0.0:
            return row, 5
        if not -np.inf < request.worth < np.inf:
            return row, 6
        if not 0 <= request.class_code < world.gateway.num_classes:
            return row, 7
        if request.prefix_tokens < 0:
            return row, 8
        if caching and request.stream < 0:
            return row, 9
        if caching and request.prefix_stream < 0:
            return row, 10
    return -1, 0


def check_settings(
    specs: Sequence[ReplicaSpec], modes: Sequence[ModeConfig], num_envs: int, num_requests: int, defer_s: float,
    max_defers: int, tick_s: float | None, batching_period_s: float,
) -> None:  # fmt: skip
    """Refuse settings under which a cluster would never come to an end."""
    for name, values, kind in (("specs", specs, ReplicaSpec), ("modes", modes, ModeConfig)):
        if not len(values) or not all(isinstance(value, kind) for value in values):
            raise BurstenvError(f"{name} must be one {kind.__name__} at least, and nothing else, got {values!r:.100}")
    whole(num_envs, "num_envs", 1)
    whole(num_requests, "num_requests", 1)
    whole(max_defers, "max_defers", 0, MOST_DEFERS)
    seconds(defer_s, "defer_s", LEAST_STEP_S)
    seconds(batching_period_s, "batching_period_s", finite=False)
    if tick_s is not None:
        seconds(tick_s, "tick_s", LEAST_STEP_S, finite=False)


def check_parts(**parts: Any) -> None:
    """Refuse optional parts of a cluster, by name, that are no configurations."""
    kinds = {
        "clients": ClientsConfig, "transfers": TransfersConfig, "recovery": RecoveryConfig, "scaling": ScalingConfig,
        "tenants": TenantTable, "background": BackgroundConfig, "flow": FlowConfig,
    }  # fmt: skip
    for name, part in parts.items():
        if not isinstance(part, kinds[name] | None):
            raise BurstenvError(f"{name} must be a {kinds[name].__name__} or None, got {shortly(part)}")


def check_array(requests: Any) -> None:
    """Refuse what is not an array of requests."""
    if not isinstance(requests, np.ndarray) or requests.dtype != REQUEST or requests.ndim != 1:
        got = f"{requests.dtype} of shape {requests.shape}" if isinstance(requests, np.ndarray) else type(requests)
        raise BurstenvError(f"requests must be an array of REQUEST, (n,), as request_array returns it, got {got}")


def check_requests(arrays: Arrays, i: int, num_requests: int, direct: bool) -> None:
    """Refuse an episode that the engine cannot play; its requests stand in the state of cluster ``i``."""
    row, rule = _first_wrong(*arrays, i, num_requests, direct)
    if row >= 0:
        name, right = _RULES[rule]
        value = arrays.requests[i, row][name]
        raise BurstenvError(f"request {row} of the episode: {name} must be {right}, got {value}")


def check_clients(clients: Any, num_requests: int, wanted: bool) -> None:
    """Refuse clients that are not those of the episode, or whose turns do not follow each other."""
    if (clients is None) == wanted or (clients is not None and not isinstance(clients, Clients)):
        needed = f"those of {num_requests} requests" if wanted else "none"
        given = "none" if clients is None else f"a {type(clients).__name__}"
        raise BurstenvError(
            f"this cluster needs {needed} as the clients of the episode, got {given}; draw_clients draws them"
        )
    if clients is None:
        return
    if len(clients) != num_requests:
        raise BurstenvError(
            f"this cluster needs those of {num_requests} requests as the clients of the episode, got those of "
            f"{len(clients)} requests; draw_clients draws them"
        )
    previous = np.asarray(clients.previous)
    turns = np.flatnonzero(previous >= 0)
    bad = turns[previous[turns] >= turns]
    if len(bad):
        raise BurstenvError(
            f"request {bad[0]} of the episode follows request {previous[bad[0]]}, which is not before it"
        )
    followed, counts = np.unique(previous[turns], return_counts=True)
    if (counts > 1).any():
        raise BurstenvError(f"several requests of the episode follow request {followed[counts > 1][0]}; one may")
    think_s = np.asarray(clients.think_s)[turns]
    if not (think_s >= 0.0).all():
        row = int(turns[~(think_s >= 0.0)][0])
        raise BurstenvError(
            f"request {row} of the episode follows another but has think time {clients.think_s[row]:g} s"
        )
    if not (np.asarray(clients.patience_s) >= 0.0).all():
        raise BurstenvError("the patience of every client must be a number of at least 0 (infinity: for ever)")
    if np.isnan(clients.horizon_s):
        raise BurstenvError("horizon_s of the clients must be a number (infinity: no end), got nan")
