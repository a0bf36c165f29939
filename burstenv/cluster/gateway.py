"""The gateway of one cluster, compiled: what a decision does.

A decision is a triple (admission, replica, mode). Nothing here chooses; policies and agents do. When decisions are made
is the matter of :mod:`burstenv.cluster.clock`.
"""

from __future__ import annotations

import numpy as np

from burstenv._jit.decorators import kernel, outlined
from burstenv.cluster.advance import catch_up
from burstenv.cluster.background import begin_background
from burstenv.cluster.clients import reject, reset_clients
from burstenv.cluster.events import RETURN, SCALE, foresee
from burstenv.cluster.faults.handlers import reset_faults
from burstenv.cluster.faults.hedges import send_copy
from burstenv.cluster.faults.silence import watch
from burstenv.cluster.flow import charge
from burstenv.cluster.flow_queue import reset_flow
from burstenv.cluster.placement import place
from burstenv.cluster.records import reset_memory
from burstenv.cluster.scaling.resize import reset_scaling
from burstenv.cluster.scaling.samples import take_sample
from burstenv.cluster.seats import reset_seats
from burstenv.cluster.telemetry import note_sent, unveil
from burstenv.cluster.traffic import forget_traffic
from burstenv.cluster.transfers import reset_transfers
from burstenv.cluster.world import engine_of
from burstenv.engine.enums import ACTIVE, FAILED, NO_REQUEST, REJECTED
from burstenv.engine.gateway_log import reset_logs
from burstenv.engine.lifecycle import settle
from burstenv.engine.replica import enqueue, set_mode
from burstenv.engine.reset import reset_accounts, reset_replica, reset_request

REJECT = 0
ADMIT = 1
DEFER = 2
ADMISSION_NAMES = ("reject", "admit", "defer")


@kernel
def may_defer(world, request):
    """Return whether the scenario lets this request be deferred once more."""
    gateway = world.gateway
    return request.defers < gateway.max_defers


@kernel
def takes_requests(world, replica):
    """Return whether the gateway may send requests to a replica, as far as it knows; an engine will do as the world."""
    return not world.gateway.changes or replica.known == ACTIVE


@kernel
def take_mode(world, replica_index, mode):
    """Set the batching mode of a replica that is at the present, unless it was set less than the period ago."""
    environment, replica = world.environment, world.replicas[replica_index]
    if mode != replica.mode and environment.now_s >= replica.mode_since_s + world.gateway.batching_period_s:
        engine = engine_of(world, replica_index)
        set_mode(engine, mode, world.modes[replica_index, mode], environment.now_s)
        replica.mode_since_s = environment.now_s


@kernel
def apply_decision(world, admission, replica_index, mode):
    """Carry out one decision for the request at the gateway (for none, at a tick).

    The chosen replica's batching mode is set in either case, unless it was set less than
    ``batching_period_s`` ago. Of a decision about a prefilled request only the replica counts, where it decodes.
    A deferral beyond the scenario's limit is a rejection: the client has been kept waiting long enough. So is an
    admission to a replica that is known to take no requests. A second copy is sent if it is admitted, or else is not.
    """
    environment, gateway, requests = world.environment, world.gateway, world.requests
    unveil(world)
    catch_up(engine_of(world, replica_index), environment.now_s)
    take_mode(world, replica_index, mode)
    engine = engine_of(world, replica_index)
    environment.last_decision_s = environment.now_s
    environment.decisions += 1
    request_id = environment.at_gateway
    if request_id == NO_REQUEST:
        return
    if gateway.hands_over and environment.placing:
        place(world, np.int64(replica_index))
        return
    environment.at_gateway = NO_REQUEST
    if gateway.changes and environment.hedging:
        if admission == ADMIT and takes_requests(world, world.replicas[replica_index]):
            send_copy(world, request_id, replica_index)
        return
    request = requests[request_id]
    if admission == ADMIT and takes_requests(world, world.replicas[replica_index]):
        request.replica = replica_index
        enqueue(engine, request_id, environment.now_s)
        if gateway.queues and request.status != FAILED:
            charge(world, np.int64(request_id))
        if gateway.count_sent and request.status != FAILED:
            note_sent(engine, request)
        if gateway.changes and world.memory.take_back_s > 0.0 and request.status != FAILED:
            watch(world, request_id)
    elif admission == DEFER and may_defer(world, request):
        request.defers += 1
        environment.deferred += 1
        foresee(world, environment.now_s + gateway.defer_s, RETURN, request_id)
    elif gateway.clients:
        reject(world, request_id, environment.now_s)
    else:
        settle(world, request_id, REJECTED, environment.now_s)


@outlined
def reset_cluster(world, num_requests, seed):
    """Empty the cluster and rewind its episode of ``num_requests`` requests to the first arrival."""
    environment = world.environment
    for r in range(len(world.replicas)):
        world.replicas[r].mode = 0
        reset_replica(engine_of(world, r))
        if world.gateway.background:
            begin_background(world, r)
    for k in range(num_requests):
        reset_request(world.requests[k])
    if world.gateway.clients:
        reset_clients(world, num_requests, seed)
    environment.now_s = 0.0
    environment.num_requests = num_requests
    environment.next_arrival = 0
    environment.at_gateway = NO_REQUEST
    environment.deferred = 0
    environment.events = 0
    environment.ended = 0
    environment.done = 0
    environment.last_decision_s = 0.0
    environment.offered = 0
    environment.attained = 0
    environment.late = 0
    environment.rejected = 0
    environment.failed = 0
    environment.first_tokens = 0
    environment.first_in_time = 0
    environment.first_in_time_lost = 0
    environment.length_capped = 0
    environment.abandoned = 0
    environment.stuck_ticks = 0
    environment.attained_worth = 0.0
    environment.offered_worth = 0.0
    environment.in_time_worth = 0.0
    environment.lost_worth = 0.0
    environment.decisions = 0
    reset_logs(world)
    if world.gateway.queues:
        reset_flow(world)
    environment.transfers = 0
    if world.gateway.transfers:
        reset_transfers(world)
    if world.gateway.changes:
        reset_faults(world)
    forget_traffic(world)
    reset_accounts(world)
    reset_memory(world.memory, seed)
    if world.gateway.scales:
        reset_scaling(world)
        take_sample(world, world.gateway.initial_replicas)
        foresee(world, world.gateway.control_period_s, SCALE, 1)
    reset_seats(world)
