"""Episodes of a batch of clusters: their requests, clients, faults and tenants, written into the state."""

from __future__ import annotations

import operator

import numpy as np

from burstenv._jit.decorators import announce_first_use
from burstenv.cluster.checks import check_array, check_clients, check_requests, place, whole
from burstenv.cluster.client_config import Clients, ClientsConfig, draw_clients
from burstenv.cluster.cluster_config import ReplicaSpec
from burstenv.cluster.entries import reset_at
from burstenv.cluster.faults.recovery import RecoveryConfig
from burstenv.cluster.faults.rows import Faults, check_faults
from burstenv.cluster.requests import number_streams
from burstenv.cluster.rules_in_force import RulesInForce
from burstenv.cluster.tenants import write_tenants
from burstenv.engine.arena_records import FAILS_UPSTREAM, FOLLOWS
from burstenv.errors import BurstenvError


class LoadedEpisodes(RulesInForce):
    """The part of :class:`burstenv.cluster.Cluster` that takes the requests of episodes."""

    specs: tuple[ReplicaSpec, ...]
    clients: ClientsConfig | None
    recovery: RecoveryConfig | None
    hands_over: bool
    hedges: bool
    _draws_clients: bool

    def load(
        self,
        i: int,
        requests: np.ndarray,
        seed: int = 0,
        clients: Clients | None = None,
        direct: bool = False,
        faults: Faults | None = None,
        tenant: np.ndarray | None = None,
    ) -> None:
        """Give cluster ``i`` the requests of an episode and empty it.

        Args:
            i: Which cluster.
            requests: (n,) REQUEST, sorted by arrival, times from 0 [s].
            seed: Seed of the randomness that policies and clients in the kernel draw from.
            clients: What the clients of these requests will do, where the cluster was made with ``clients``.
            direct: Every request will be handed over by :meth:`submit`; they need not be sorted.
            faults: How replicas fail, start and stop by themselves, where the cluster was made with ``recovery``.
            tenant: (n,) numbers of the tenants, where the cluster was made with some; None: all are the first one's.

        Raises:
            BurstenvError: On requests, clients or faults that the engine cannot play, with the first row that is wrong.
        """
        check_array(requests)
        # As bytes: NumPy would copy records field by field, which takes thirty times as long.
        self.room_for(i, len(requests)).view(np.uint8)[...] = np.ascontiguousarray(requests).view(np.uint8)
        self.begin(i, len(requests), seed, clients, direct, faults, tenant)

    def room_for(self, i: int, num_requests: int) -> np.ndarray:
        """Return where cluster ``i``'s next episode is to be written before :meth:`begin`, (num_requests,) REQUEST."""
        i = place(i, self.num_envs, "i")
        rows = whole(num_requests, "num_requests", 0) * (1 + self.hedges)
        if rows > self.state.requests.shape[1]:
            self.state.grow_requests(int(rows * 1.25) + 16)
        return self.state.requests[i, :num_requests]

    def begin(
        self,
        i: int,
        num_requests: int,
        seed: int = 0,
        clients: Clients | None = None,
        direct: bool = False,
        faults: Faults | None = None,
        tenant: np.ndarray | None = None,
    ) -> None:
        """Start cluster ``i`` on the ``num_requests`` requests that were written into its state; see :meth:`load`."""
        announce_first_use()
        i = place(i, self.num_envs, "i")
        whole(num_requests, "num_requests", 0, self.state.requests.shape[1])
        if self._draws_clients and clients is None:
            clients = draw_clients(ClientsConfig(), self.state.requests[i, :num_requests], 0)
        check_clients(clients, num_requests, self.clients is not None)
        check_faults(faults, self.num_replicas, self.state.layout.fault_room, self.recovery is not None)
        requests = self.state.requests[i, :num_requests]
        if self.state.specs["prefix_caching"].any():
            number_streams(requests)
            self._check_tables(requests)
        self._write_clients(i, num_requests, clients)
        write_tenants(self.state, i, num_requests, tenant)
        count = 0 if faults is None else len(faults)
        self.state.environments["num_faults"][i] = count
        if faults is not None:
            self.state.faults(i)[:count] = faults.rows
        check_requests(self.state.arrays(), i, num_requests, direct)
        if self.migrates:  # a policy of the episode before may have brought its own rule
            self.migrate_by(*self.migration_rule, i=i)
        if self.hands_over:
            self.place_by(*self.placement_rule, i=i)
            self.stop_to_place(self._stops_to_place, i=i)
        if self.queues:
            self.flow_by(*self.flow_rule, i=i)
        if self.scales:
            self.scale_by(*self.scaling_rule, i=i, advises=self.scaling_advises)
        if self.background is not None:
            self._begin_background_by(self.background_rule, i)
        self.rewind(i, num_requests, seed)
        self._direct[i] = True if direct else None

    def _write_clients(self, i: int, num_requests: int, clients: Clients | None) -> None:
        if clients is None:
            return
        numbers = self.state.parts(i).clients[:num_requests]
        for name in ("patience_s", "think_s", "next_turn"):
            numbers[name] = getattr(clients, name)
        numbers["kind"] = np.where(clients.previous >= 0, FOLLOWS, 0) + FAILS_UPSTREAM * clients.upstream_failed
        self.state.environments["horizon_s"][i] = clients.horizon_s

    def _check_tables(self, requests: np.ndarray) -> None:
        tokens = requests["prompt_tokens"].astype(np.int64) + requests["output_tokens"]
        longest = min(int(tokens.max(initial=0)), max(spec.max_model_len for spec in self.specs))
        room = self.state.layout.table_size * self.specs[0].block_size
        if longest > room:
            raise BurstenvError(
                f"a request of {longest} tokens is longer than the {room} that this cluster was made for; "
                f"raise max_request_tokens"
            )

    def rewind(self, i: int, num_requests: int, seed: int = 0) -> None:
        """Empty cluster ``i`` and start its episode of ``num_requests`` requests again."""
        i = place(i, self.num_envs, "i")
        whole(num_requests, "num_requests", 0, self.state.requests.shape[1])
        self._direct[i] = None
        mixed = (operator.index(seed) * 0x9E3779B97F4A7C15 + 0x2545F4914F6CDD1D) % 2**64 | 1
        reset_at(*self.state.arrays(), i, num_requests, np.uint64(mixed))
