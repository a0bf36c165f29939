"""Features of the decision of two rules about the request at the gateway, for agents that correct it. Compiled."""

from __future__ import annotations

import math

import numpy as np

from burstenv._jit.decorators import kernel, outlined
from burstenv.cluster.gateway import ADMIT
from burstenv.cluster.world import engine_of
from burstenv.engine.enums import NO_REQUEST
from burstenv.envs.observation.features import ADVICE, ADVISED, LIMIT, NO_CHOICE
from burstenv.policies.decide import choose_admission, choose_replica
from burstenv.policies.estimates import tokens_to_hold
from burstenv.policies.margins import margin
from burstenv.policies.routing import is_allowed, plain_rule, score
from burstenv.policies.routing_rules import LEAST_TOKENS, POWER_OF_TWO, RANDOM, ROUND_ROBIN


@kernel
def _compares(settings, world):
    """Return whether the routing rule gives each replica a score for the request at the gateway."""
    if settings.routing == ROUND_ROBIN or settings.routing == RANDOM or settings.routing == POWER_OF_TWO:
        return False
    return not (world.gateway.hands_over and world.environment.placing)


@outlined
def _observe_scores(out, at, stride, settings, world, best):
    """Write how much worse than that of replica ``best`` the rule's score of each replica is."""
    request_id, judged = world.environment.at_gateway, settings.health > 0
    rule, source, parameters = settings.routing, settings.routing_source, settings.routing_parameters
    if rule >= LEAST_TOKENS:
        rule = plain_rule(rule, source, parameters, world, judged)
    tokens = tokens_to_hold(world, world.requests[request_id])
    least = float(score(rule, source, parameters, engine_of(world, best), best, request_id))
    for r in range(len(world.replicas)):
        worse = NO_CHOICE
        if is_allowed(world, r, tokens, judged):
            own = float(score(rule, source, parameters, engine_of(world, r), r, request_id))
            share = (own - least) / (abs(own) + abs(least) + 1e-9)
            worse = min(1.0, max(0.0, share)) if math.isfinite(share) else 1.0
        out[at + r * stride + ADVISED.rule_score] = np.float32(worse if r != best else 0.0)


@outlined
def observe_advice(out, at_request, at_replicas, stride, settings, world):
    """Write the decision of the rules that the settings name.

    The rules decide as they do by themselves: their memories and random numbers move on. Call it once per decision.

    Args:
        out: (O,) float32.
        at_request: Index of the request's features.
        at_replicas: Index of the first replica's features.
        stride: From one replica's features to those of the next.
        settings: SETTINGS.
        world: The cluster.
    """
    replica = choose_replica(settings, world)
    world.memory.advised_replica = replica
    admission = choose_admission(settings, world, replica)
    strength = margin(
        settings.admission, settings.admission_source, settings.admission_parameters, world, replica, admission
    )
    out[at_request + ADVICE.rule_admits] = 1.0 if admission == ADMIT else 0.0
    out[at_request + ADVICE.rule_margin] = np.float32(min(LIMIT, max(-LIMIT, strength)))
    for r in range(len(world.replicas)):
        out[at_replicas + r * stride + ADVISED.rule_choice] = 1.0 if r == replica else 0.0
        out[at_replicas + r * stride + ADVISED.rule_score] = 0.0
    if world.environment.at_gateway != NO_REQUEST and _compares(settings, world):
        _observe_scores(out, at_replicas, stride, settings, world, replica)
