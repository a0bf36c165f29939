"""The episodes of an evaluation, shared by all policies: drawn once, kept, and never changed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from burstenv.cluster import Clients
from burstenv.cluster.faults.rows import Faults
from burstenv.envs.scenario import Scenario
from burstenv.errors import BurstenvError

KEPT_BYTES = 512 * 2**20  # of drawn episodes; others are drawn again when needed


@dataclass(frozen=True)
class Episode:
    """One episode.

    Attributes:
        load: Share of capacity.
        seed: Seed of the draw; also of the policies' own randomness.
        day: Its day of the trace: the block of the bootstrap.
        rate_per_s: Requested mean arrival rate [requests/s].
        duration_s: Length of the window that arrivals were drawn from [s].
        requests: (n,) REQUEST, untouched.
        model: Codes into ``MODELS``, (n,) int8.
        clients: Behaviour of their clients; None: send and wait.
        faults: How replicas fail; None: they serve for ever.
        tenant: Number of each request's tenant, (n,); None: there are none.
    """

    load: float
    seed: int
    day: int
    rate_per_s: float
    duration_s: float
    requests: NDArray[Any]
    model: NDArray[np.int8]
    clients: Clients | None = None
    faults: Faults | None = None
    tenant: NDArray[np.int32] | None = None

    @cached_property
    def foreseen(self) -> NDArray[Any]:
        """The same requests with output lengths predicted exactly, for privileged agents."""
        requests = self.requests.copy()
        requests["predicted_tokens"] = np.maximum(1, requests["output_tokens"])
        return requests


def draw_episode(scenario: Scenario, split: str, load: float, seed: int, rate_per_s: float) -> Episode:
    """Draw an episode.

    Args:
        scenario: The scenario.
        split: ``train``, ``validation`` or ``test``.
        load: Share of capacity that ``rate_per_s`` is, for the record.
        seed: Decides the day, the requests and the length predictions.
        rate_per_s: Mean arrival rate [requests/s].

    Raises:
        BurstenvError: When the window holds no requests.
    """
    requests, drawn = scenario.episode(split, seed, rate_per_s)
    if len(requests) == 0:
        raise BurstenvError(
            f"scenario {scenario.config.name!r}: the {split} episode of seed {seed} holds no requests at load "
            f"{load:g}; raise the load or episode.duration_s"
        )
    duration_s = float(scenario.config.episode.duration_s)
    day, clients = int(drawn.metadata["day"]), scenario.clients_of(requests, drawn, seed)
    faults = scenario.faults_of(drawn, seed)
    tenant = scenario.tenants_of(drawn)
    return Episode(load, seed, day, rate_per_s, duration_s, requests, drawn.model, clients, faults, tenant)


class EpisodeStore:
    """The episodes of an evaluation by load and seed, the latest ``KEPT_BYTES`` of them kept.

    Args:
        scenario: The scenario.
        split: Split whose episodes are drawn.
        unit_per_s: The rate of load 1 [requests/s].
    """

    def __init__(self, scenario: Scenario, split: str, unit_per_s: float):
        self.scenario, self.split, self.unit_per_s = scenario, split, unit_per_s
        self._kept: OrderedDict[tuple[float, int], Episode] = OrderedDict()
        self._bytes = 0

    def get(self, load: float, seed: int) -> Episode:
        """Return the episode of a load and seed."""
        key = (load, seed)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        episode = draw_episode(self.scenario, self.split, load, seed, load * self.unit_per_s)
        self._kept[key] = episode
        self._bytes += episode.requests.nbytes
        while self._bytes > KEPT_BYTES and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].requests.nbytes
        return episode

    def fill(self, loads: Sequence[float], seeds: Sequence[int]) -> None:
        """Draw as many episodes as are kept, for processes forked from this one."""
        for load in loads:
            for seed in seeds:
                self.get(load, seed)
                if self._bytes > 0.9 * KEPT_BYTES:
                    return
