"""Who migrates when, in plain Python: the rules of Llumnix' manager, as ``policies/migration.py`` declares them.

* The freeness of a replica is (free blocks - blocks that the queue asks for) / requests. In the form of the artifact
  the whole queue asks, and counts as one request; in that of the paper only its first request asks, and the running
  ones share. Without requests it is infinite.
* A replica that drains has a freeness of minus infinity: it is the first source. One that does not serve, by what the
  gateway knows, takes no part.
* Replicas with less than ``low`` are sources, those with more than ``high`` destinations. The source with the least is
  paired with the destination with the most, and so on. In each pair one request begins to migrate, if it can.
* The balanced form demands besides that the two come closer, and that the destination stays above ``low``.
"""

from __future__ import annotations

import math

from burstenv.cluster.migration import HIGH, LLUMNIX_ADAPTIVE, LLUMNIX_BALANCED, LLUMNIX_PAPER, LOW, NO_MIGRATION, PICK
from burstenv.cluster.reference.adaptive_roles import adapt
from burstenv.cluster.reference.cluster import ReferenceCluster
from burstenv.cluster.transfer_config import Pick
from burstenv.engine.enums import ACTIVE, DRAINING
from burstenv.engine.reference.published import Published, blocks_for
from burstenv.engine.reference.transfer_ends import TransferringReplica, kv_tokens


def freeness(
    replica: TransferringReplica, seen: Published, rule: int, more_blocks: int = 0, more_requests: int = 0
) -> float:
    """Return the blocks that each request of a replica can still take."""
    size, demand = replica.limits.block_size, seen.waiting_blocks
    requests = seen.running + (seen.waiting > 0)
    if rule == LLUMNIX_PAPER:
        requests = max(1, seen.running) if requests else 0
        demand = blocks_for(replica.head().known_tokens, size) if replica.waiting else 0
    if requests + more_requests <= 0:
        return math.inf
    free = seen.free_blocks - replica.limits.headroom_blocks - demand - more_blocks
    return free / (requests + more_requests)


def migrate_by_rule(cluster: ReferenceCluster, rule: int, parameters: list[float]) -> None:
    """Begin the migrations that a rule asks for now."""
    if rule == NO_MIGRATION:
        return
    if rule == LLUMNIX_ADAPTIVE:
        adapt(cluster, parameters)
        return
    low, high, pick = parameters[LOW], parameters[HIGH], Pick(int(parameters[PICK]))
    seen = [replica.published() for replica in cluster.replicas]
    known = [life.known for life in cluster.life.lives]
    values = [freeness(*pair, rule) for pair in zip(cluster.replicas, seen, strict=True)]
    values = [-math.inf if known[r] == DRAINING else value for r, value in enumerate(values)]
    sources = sorted((value, r) for r, value in enumerate(values) if value < low)
    destinations = sorted((-value, r) for r, value in enumerate(values) if value > high)
    taken = {r for r, status in enumerate(known) if status not in (ACTIVE, DRAINING)}
    # And those that are in a pair: with high < low a replica may be on both lists.
    while True:
        source = next((r for _, r in sources if r not in taken), None)
        destination = next((r for _, r in destinations if r not in taken), None)
        if source is None or destination is None:
            return
        taken |= {source, destination}
        if rule == LLUMNIX_BALANCED and known[source] == ACTIVE:
            request = cluster.transfers.chosen(source, pick)
            if request is None or not cluster.transfers.is_way(source, destination):
                continue
            here, there = cluster.replicas[source], cluster.replicas[destination]
            blocks = blocks_for(kv_tokens(request), here.limits.block_size)
            source_after = freeness(here, seen[source], rule, -blocks, -1)
            destination_after = freeness(there, seen[destination], rule, blocks, 1)
            gap = values[destination] - values[source]
            if destination_after <= low or not abs(source_after - destination_after) < gap:
                continue
        cluster.migrate(source, destination, pick)
