"""One cluster at work, as compiled code takes it: all that belongs to one environment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numba
from numba import types

from burstenv._jit.compact import compact
from burstenv._jit.decorators import merged
from burstenv.engine.world import Engine

if TYPE_CHECKING:
    from burstenv.cluster.state import ClusterState


class Arrays(NamedTuple):
    """The arrays of a batch of clusters, in the order in which every entry takes them; see ``cluster/state.py``.

    Attributes:
        environments: (N,) ENVIRONMENT.
        memories: (N,) MEMORY.
        replicas: (N, R) REPLICA.
        arenas: (N, A) int32.
        requests: (N, E) REQUEST.
        gateway: (1,) GATEWAY, constants.
        specs: (R,) SPEC, constants.
        modes: (R, M) MODE, constants.
    """

    environments: Any
    memories: Any
    replicas: Any
    arenas: Any
    requests: Any
    gateway: Any
    specs: Any
    modes: Any


@compact
class World(NamedTuple):
    """One environment of such a batch.

    Attributes:
        environment: ENVIRONMENT.
        memory: MEMORY, of the policies.
        gateway: GATEWAY.
        replicas: (R,) REPLICA.
        specs: (R,) SPEC.
        modes: (R, M) MODE.
        arena: (A,) int32.
        requests: (E,) REQUEST; a request's id is its place.
    """

    environment: Any
    memory: Any
    gateway: Any
    replicas: Any
    specs: Any
    modes: Any
    arena: Any
    requests: Any


@merged
def world_of(arrays, i):
    """Return environment ``i`` of a batch."""
    return World(
        arrays.environments[i],
        arrays.memories[i],
        arrays.gateway[0],
        arrays.replicas[i],
        arrays.specs,
        arrays.modes,
        arrays.arenas[i],
        arrays.requests[i],
    )


@merged
def engine_of(world, r):
    """Return replica ``r`` of a cluster."""
    return Engine(
        world.environment,
        world.gateway,
        world.replicas[r],
        world.specs[r],
        world.modes[r, world.replicas[r].mode],
        world.arena,
        world.requests,
    )


def world_type(state: ClusterState) -> types.Type:
    """Return the type of a cluster at work, from a state."""
    arrays = state.raw
    fields = {
        "environment": numba.typeof(arrays.environments).dtype,
        "memory": numba.typeof(arrays.memories).dtype,
        "gateway": numba.typeof(arrays.gateway).dtype,
        "replicas": numba.typeof(arrays.replicas[0]),
        "specs": numba.typeof(arrays.specs),
        "modes": numba.typeof(arrays.modes),
        "arena": numba.typeof(arrays.arenas[0]),
        "requests": numba.typeof(arrays.requests[0]),
    }
    return types.NamedTuple([fields[name] for name in World._fields], World)
