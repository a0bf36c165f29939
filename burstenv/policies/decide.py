"""A composite policy's decision, compiled: route, then admit to the chosen replica, then its mode."""

from __future__ import annotations

from burstenv.cluster.frontdoor import ADMIT
from burstenv.cluster.kernel import kernel
from burstenv.cluster.state import NOBODY
from burstenv.policies.admission import admit
from burstenv.policies.routing import route


@kernel
def decide(policy, environment, replicas, requests):
    """Return (admission, replica, mode) for the request at the front door.

    At a tick nobody stands there; the replicas' modes are set in turn.
    """
    if environment.at_door == NOBODY:
        replica = environment.decisions % environment.num_replicas
        return ADMIT, replica, policy.mode
    request = requests[environment.at_door]
    replica = route(policy.routing, policy.routing_parameters, environment, replicas, request)
    admission = admit(
        policy.admission,
        policy.admission_parameters,
        environment,
        replicas[environment.first_replica + replica],
        request,
    )
    return admission, replica, policy.mode
