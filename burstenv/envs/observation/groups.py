"""The features of classes and tenants: how long their requests wait, what they have had, how well they fared. Compiled.

The gateway's log tells all of it: which requests have come, and which first tokens and answers it has relayed.
"""

from __future__ import annotations

import math

import numpy as np

from burstenv._jit.decorators import outlined
from burstenv.cluster.flow_config import OUTPUT_PRICE
from burstenv.cluster.flow_queue import tenant_of
from burstenv.engine.enums import AT_GATEWAY, ATTAINED, AWAY, LATE, LENGTH_CAPPED, RUNNING, UNSEEN, UNSENT, WAITING
from burstenv.envs.observation.features import LIMIT

PER_GROUP = 4  # numbers of each class and tenant
BACKLOG, SERVED, IN_TIME, SHARE = range(PER_GROUP)


@outlined
def observe_groups(out, at, world, classes, tenants):
    """Write the features of ``classes`` classes and then of ``tenants`` tenants, from place ``at`` on.

    For each: requests without a first token / 16; its share of the service of all answers, a prompt token counting 1
    and an output token 2; the share of its requests with a first token, or ended without one, that had it in time; its
    share of all such requests.
    """
    environment, requests = world.environment, world.requests
    groups = classes + tenants
    total, began = 0.0, 0
    for k in range(PER_GROUP * groups):
        out[at + k] = 0.0
    for k in range(environment.num_requests):
        request = requests[k]
        if k >= environment.next_arrival and not world.gateway.clients:
            break
        if not request.arrival_s <= environment.now_s or request.status in (UNSEEN, UNSENT):
            continue
        waits = math.isnan(request.first_token_s) and request.status in (AT_GATEWAY, WAITING, RUNNING, AWAY)
        answered = request.status in (ATTAINED, LATE, LENGTH_CAPPED) and not math.isnan(request.first_token_s)
        tokens = request.prompt_tokens + OUTPUT_PRICE * request.produced_tokens if answered else 0.0
        total += tokens
        began += not waits
        for part in range(2):
            group = np.int64(request.class_code)
            if part == 1:
                if tenants == 0:
                    break
                group = np.int64(classes + tenant_of(world, k))
            elif classes == 0:
                continue
            place = at + PER_GROUP * group
            if waits:
                out[place + BACKLOG] += 1.0 / 16.0
                continue
            out[place + SHARE] += 1.0
            if request.first_token_s - request.arrival_s <= request.ttft_slo_s:
                out[place + IN_TIME] += 1.0
            out[place + SERVED] += tokens
    for number in range(groups):
        place = at + PER_GROUP * number
        out[place + BACKLOG] = min(LIMIT, out[place + BACKLOG])
        out[place + SERVED] /= max(1.0, total)
        out[place + IN_TIME] /= max(1.0, out[place + SHARE])
        out[place + SHARE] /= max(1, began)


@outlined
def observe_membership(out, at, world, request_id, classes, tenants):
    """Write 1 for the class and for the tenant of the request at the gateway, 0 for the others."""
    for k in range(classes + tenants):
        out[at + k] = 0.0
    if request_id < 0:
        return
    if classes > 0:
        out[at + world.requests[request_id].class_code] = 1.0
    if tenants > 0:
        out[at + classes + tenant_of(world, request_id)] = 1.0
