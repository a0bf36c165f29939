"""The compiled functions that :class:`burstenv.cluster.cluster.Cluster` calls; it has checked their arguments."""

from __future__ import annotations

from burstenv._jit.decorators import entry
from burstenv.cluster.gateway import apply_decision, next_epoch, reset_cluster
from burstenv.engine.replica import advance_replica, enqueue, finish_replica, set_mode, start_replica


@entry
def next_epoch_at(environments, replicas, pool, requests, i):
    """Advance cluster ``i`` to its next decision epoch."""
    next_epoch(environments[i], replicas, pool, requests, False)


@entry
def decide_at(environments, replicas, pool, requests, modes, i, admission, replica, mode):
    """Carry out a decision in cluster ``i``."""
    apply_decision(environments[i], replicas, pool, requests, modes, admission, replica, mode)


@entry
def reset_at(environments, replicas, pool, requests, modes, i, num_requests, seed):
    """Empty cluster ``i`` and rewind its episode."""
    reset_cluster(environments[i], replicas, pool, requests, modes, num_requests, seed)


@entry
def submit_at(environments, replicas, pool, requests, i, r, request_id, now_s):
    """Hand a request of cluster ``i`` to its replica number ``r``."""
    environment = environments[i]
    enqueue(
        environment,
        replicas[environment.first_replica + r],
        pool,
        requests,
        environment.first_request + request_id,
        now_s,
    )


@entry
def advance_at(environments, replicas, pool, requests, i, r, until_s):
    """Run replica number ``r`` of cluster ``i`` up to ``until_s``."""
    environment = environments[i]
    advance_replica(environment, replicas[environment.first_replica + r], pool, requests, until_s)


@entry
def start_at(environments, replicas, pool, requests, i, r):
    """Put the iteration that starts at the clock of a replica in flight."""
    environment = environments[i]
    start_replica(environment, replicas[environment.first_replica + r], pool, requests)


@entry
def finish_at(environments, replicas, pool, requests, i, r):
    """Apply the oldest iteration in flight of a replica, at its end."""
    environment = environments[i]
    finish_replica(environment, replicas[environment.first_replica + r], pool, requests)


@entry
def set_mode_at(environments, replicas, pool, requests, modes, i, r, mode, now_s):
    """Put a batching mode in force on a replica."""
    set_mode(replicas[environments[i].first_replica + r], pool, requests, modes[r, mode], mode, now_s)
