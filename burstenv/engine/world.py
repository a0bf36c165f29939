"""The arguments of compiled code: one replica in one environment.

Entries, which Python calls, take flat arrays and build such a tuple in their first lines; their callees take the tuple
and the request. A tuple costs nothing: its fields are pointers into the arrays.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
from numba import types

from burstenv._jit.compact import compact
from burstenv._jit.decorators import merged


@compact
class Engine(NamedTuple):
    """One replica in its environment.

    Attributes:
        environment: ENVIRONMENT, the counts of the episode.
        gateway: GATEWAY, constants.
        replica: REPLICA, its state.
        spec: SPEC, constants.
        limits: MODE, the batching mode in force; after a change of mode, build the tuple again.
        arena: (A,) int32, the environment's integers of variable number.
        requests: (E,) REQUEST, of the episode.
    """

    environment: Any
    gateway: Any
    replica: Any
    spec: Any
    limits: Any
    arena: Any
    requests: Any


@merged
def in_mode(engine, limits):
    """Return the same replica with other limits, a MODE, in force."""
    return Engine(
        engine.environment,
        engine.gateway,
        engine.replica,
        engine.spec,
        limits,
        engine.arena,
        engine.requests,
    )


def engine_type(state: Any) -> types.Type:
    """Return the type of such a tuple, from the state of a batch of clusters."""
    arrays = state.raw
    fields = {
        "environment": numba.typeof(arrays.environments).dtype,
        "gateway": numba.typeof(arrays.gateway).dtype,
        "replica": numba.typeof(arrays.replicas).dtype,
        "spec": numba.typeof(arrays.specs).dtype,
        "limits": numba.typeof(arrays.modes).dtype,
        "arena": numba.typeof(arrays.arenas[0]),
        "requests": numba.typeof(arrays.requests[0]),
    }
    return types.NamedTuple([fields[name] for name in Engine._fields], Engine)
