"""A composite policy's decision, compiled: route, then admit to the chosen replica, then its mode."""

from __future__ import annotations

from burstenv.cluster.frontdoor import ADMIT
from burstenv.cluster.kernel import kernel
from burstenv.cluster.state import NOBODY
from burstenv.policies.admission import admit
from burstenv.policies.routing import route


@kernel
def choose_replica(policy, environment, replicas, requests):
    """Return the replica that the routing rule chooses; at a tick, each replica in turn."""
    if environment.at_door == NOBODY:
        return environment.decisions % environment.num_replicas
    return route(policy.routing, policy.routing_parameters, environment, replicas, requests[environment.at_door])


@kernel
def choose_admission(policy, environment, replicas, requests, replica):
    """Return what the admission rule decides about the request at the door and the replica chosen for it."""
    if environment.at_door == NOBODY:
        return ADMIT
    chosen = replicas[environment.first_replica + replica]
    return admit(policy.admission, policy.admission_parameters, environment, chosen, requests[environment.at_door])


@kernel
def decide(policy, environment, replicas, requests):
    """Return (admission, replica, mode) for the request at the front door, or for nobody at a tick."""
    replica = choose_replica(policy, environment, replicas, requests)
    return choose_admission(policy, environment, replicas, requests, replica), replica, policy.mode
