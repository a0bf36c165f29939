"""What each of several gateways observes at a decision, compiled: its own log and traffic, and the metrics of all."""

from __future__ import annotations

from burstenv._jit.decorators import entry
from burstenv.cluster.seats import put_aside, take_up
from burstenv.cluster.traffic import decay_rates
from burstenv.cluster.world import Arrays, world_of
from burstenv.engine.enums import NO_REQUEST
from burstenv.envs.exchange import Exchange
from burstenv.envs.observation.encoder import observe


@entry
def views_at(
    environments, memories, replicas, arenas, requests, gateway, specs, modes,
    settings, links, actions, observations, masks, rewards, totals, elapsed_s, i, views,
):  # fmt: skip
    """Write the observation of every gateway of cluster ``i`` into ``views``, (K, O) float32; nothing else changes.

    The other arguments are those of ``step_batch``. The deciding gateway has its request before it, the others none.
    """
    world = world_of(Arrays(environments, memories, replicas, arenas, requests, gateway, specs, modes), i)
    environment = world.environment
    decides, request_id = environment.viewer, environment.at_gateway
    for k in range(views.shape[1]):
        views[decides, k] = observations[i, k]
    put_aside(world)
    environment.at_gateway = NO_REQUEST
    for number in range(len(views)):
        if number != decides:
            take_up(world, number)
            decay_rates(world, environment.now_s)
            exchange = Exchange(settings[0], links[i], actions[i], views[number], masks[i], rewards[i], totals[i])
            observe(world, exchange, elapsed_s[i])
    take_up(world, decides)
    environment.at_gateway = request_id
