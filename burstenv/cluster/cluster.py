"""Clusters stepped from Python: a batch of them, without Gymnasium.

Example:
    >>> from burstenv.cluster import Cluster, load_cluster
    >>> cluster = Cluster(load_cluster("default"))
    >>> cluster.load(0, requests)          # a REQUEST array, sorted by arrival
    >>> cluster.next_epoch(0)              # the first request is at the gateway
    >>> cluster.decide(0, ADMIT, replica=2, mode=0)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from burstenv.arguments import checked
from burstenv.cluster.background_config import BackgroundConfig, works_of
from burstenv.cluster.checks import (
    LEAST_STEP_S,
    MOST_CLASSES,
    check_parts,
    check_settings,
    place,
    seconds,
    whole,
)
from burstenv.cluster.client_config import ClientsConfig
from burstenv.cluster.cluster_config import HAND_OUT, ROLES, ClusterConfig, ModeConfig, ReplicaSpec, resolve_cluster
from burstenv.cluster.cold_start import cold_start_s
from burstenv.cluster.constants import layout_of, write_constants, write_works
from burstenv.cluster.constants import needs_general_engine as needs_general_engine
from burstenv.cluster.entries import (
    decide_at,
    migrate_at,
    next_epoch_at,
    scale_at,
    set_role_at,
)
from burstenv.cluster.faults.recovery import RecoveryConfig, check_drain
from burstenv.cluster.faults.rows import MOST_FAULTS
from burstenv.cluster.flow_config import AT_ONCE, FlowConfig
from burstenv.cluster.gateway_constants import (
    write_background,
    write_clients,
    write_ends,
    write_recovery,
    write_scaling,
    write_transfers,
)
from burstenv.cluster.loading import LoadedEpisodes
from burstenv.cluster.migration import BY_CALLER
from burstenv.cluster.output_lengths import LengthModel
from burstenv.cluster.placement import FEWEST_REQUESTS
from burstenv.cluster.requests import number_streams as number_streams
from burstenv.cluster.requests import request_array as request_array
from burstenv.cluster.scaling.codes import BY_CALLER as SCALED_BY_CALLER
from burstenv.cluster.scaling.config import ScalingConfig
from burstenv.cluster.state import ClusterState
from burstenv.cluster.tenants import TenantTable, table_size, write_table
from burstenv.cluster.transfer_config import Pick, TransfersConfig
from burstenv.config import load
from burstenv.engine.background_rule import BackgroundRule
from burstenv.engine.spec import SPLIT_NAMES
from burstenv.errors import BurstenvError, unknown_name
from burstenv.workload import CLASSES

MOST_GATEWAYS = 1_024
VLLM_MODE = ModeConfig(name="vllm")  # the engine's own defaults on its hardware


@checked()
def load_cluster(name: str) -> tuple[ReplicaSpec, ...]:
    """Return the replicas of a shipped cluster, or of a YAML file."""
    return resolve_cluster(load(ClusterConfig, "clusters", name))


def hidden_log(reader: str) -> BurstenvError:
    """Return the error of one that reads the gateway's log where decisions do not see it."""
    return BurstenvError(f"{reader} needs the gateway's log, which this scenario hides; set observation.log: true")


class Cluster(LoadedEpisodes):
    """``num_envs`` independent clusters of the same replicas.

    Args:
        specs: The replicas, R of them.
        modes: The batching modes a decision may choose from, M of them; the first is the initial one.
        num_envs: N.
        num_requests: E, longest episode expected; grows as needed.
        defer_s: Time until a deferred request returns to the gateway [s].
        max_defers: How often one request may be deferred.
        tick_s: Longest time without a decision epoch [s]; None: only requests make epochs.
        batching_period_s: How long a replica keeps a batching mode at least [s].
        max_request_tokens: Longest request, prompt and output, that prefix caching has to hold; None: the
            longest model length.
        clients: What the senders of requests do; None: they send and wait. Otherwise every episode that is
            loaded needs its ``Clients``.
        gateways: K, the number of gateways. Each has its own log and sees no other's.
        split: How requests are split among them: ``evenly`` in turn, or by ``hash`` of the session (of the request
            without one).
        transfers: What it takes to move KV blocks from one replica to another; None: they stay, or, where replicas
            have roles, move as ``TransfersConfig()`` says.
        migrate_period_s: Time from one decision about a migration to the next [s]; None: there is none.
        recovery: What follows when replicas fail, start or stop; None: they serve for ever. Otherwise an episode may
            have ``Faults``.
        fault_room: Most of them in an episode.
        scaling: How the number of replicas changes by decisions; None: it does not. Without ``recovery`` its own holds.
        num_classes: Number of classes of requests.
        tenants: The tenants that requests may belong to; None: they have none.
        background: The fine-tuning that replicas do in the slack of inference; None: they do none. The KV blocks that
            it takes are left out of the specs already, see ``without_memory``.
        flow: The gateway's queue; None: requests are decided about as they arrive.
        switches_roles: Whether roles change, by :meth:`set_role`.
    """

    def __init__(
        self,
        specs: Sequence[ReplicaSpec],
        modes: Sequence[ModeConfig] = (VLLM_MODE,),
        num_envs: int = 1,
        num_requests: int = 1024,
        defer_s: float = 1.0,
        max_defers: int = 0,
        tick_s: float | None = None,
        batching_period_s: float = 0.0,
        max_request_tokens: int | None = None,
        clients: ClientsConfig | None = None,
        gateways: int = 1,
        split: str = "evenly",
        transfers: TransfersConfig | None = None,
        migrate_period_s: float | None = None,
        recovery: RecoveryConfig | None = None,
        fault_room: int = 64,
        scaling: ScalingConfig | None = None,
        num_classes: int = 2,
        tenants: TenantTable | None = None,
        background: BackgroundConfig | None = None,
        flow: FlowConfig | None = None,
        switches_roles: bool = False,
    ):
        check_settings(specs, modes, num_envs, num_requests, defer_s, max_defers, tick_s, batching_period_s)
        check_parts(
            clients=clients, transfers=transfers, recovery=recovery, scaling=scaling, tenants=tenants,
            background=background, flow=flow,
        )  # fmt: skip
        whole(num_classes, "num_classes", 1, MOST_CLASSES)
        self.class_names: tuple[str, ...] = CLASSES  # by code
        self.tenants = tenants
        self.flow = flow
        if max_request_tokens is not None:
            whole(max_request_tokens, "max_request_tokens", 1)
        self.specs = tuple(specs)
        self.mode_names = tuple(mode.name for mode in modes)
        block_sizes = {spec.block_size for spec in self.specs}
        if len(block_sizes) != 1:
            raise BurstenvError(f"all replicas of a cluster need one block_size, got {sorted(block_sizes)}")
        if scaling is not None and recovery is None:
            recovery = scaling.recovery
        self.hands_over = switches_roles or any(spec.role in HAND_OUT for spec in specs)
        self._draws_clients = clients is None and (recovery is not None or self.hands_over or flow is not None)
        self.clients = ClientsConfig() if self._draws_clients else clients  # requests that come back are counted there
        self.lengths: Callable[[], LengthModel] | None = None  # what look-ahead may believe about output lengths
        self.knows_prefixes = True  # whether KV events, which tell the cached blocks, can be had
        whole(gateways, "gateways", 1, MOST_GATEWAYS)
        if split not in SPLIT_NAMES:
            raise unknown_name("split of requests among gateways", str(split), SPLIT_NAMES)
        if transfers is None and (switches_roles or any(spec.role != "mixed" for spec in self.specs)):
            transfers = TransfersConfig()
        check_drain(recovery, transfers is not None)
        self.transfers = transfers
        self.hedges = False  # whether a gateway may send requests a second time
        self.migration_rule: tuple[int, tuple[float, ...]] = BY_CALLER, ()  # that decides, where nothing else is said
        self.placement_rule: tuple[int, tuple[float, ...]] = FEWEST_REQUESTS, (0.0, np.inf, 1.0)
        self.recovery = recovery
        whole(fault_room, "fault_room", 0, MOST_FAULTS)
        layout = layout_of(
            self.specs,
            modes,
            max_request_tokens,
            clients=self.clients is not None,
            gateways=gateways,
            transfers=0 if transfers is None else transfers.at_once,
            changes=recovery is not None,
            fault_room=0 if recovery is None else fault_room,
            samples=0 if scaling is None else scaling.samples,
            num_classes=num_classes,
            background=background is not None,
            tenants=table_size(tenants, flow is not None),
            hands_over=self.hands_over,
        )
        self.state = ClusterState.allocate(num_envs, num_requests, len(modes), layout)
        write_constants(self.state, self.specs, modes)
        gateway = self.state.gateway
        gateway["defer_s"] = defer_s
        gateway["max_defers"] = max_defers
        gateway["batching_period_s"] = batching_period_s
        gateway["split"] = SPLIT_NAMES.index(split)
        gateway["relays"] = 1
        gateway["gpus"] = sum(spec.tensor_parallel for spec in self.specs)
        gateway["ends_before"] = self.num_replicas
        if self.clients is not None:
            write_clients(gateway, self.clients)
        if transfers is not None:
            write_transfers(gateway, transfers)
            if self.hands_over:
                gateway["hands_over"] = gateway["stops_at_ends"] = 1
                gateway["switches_roles"] = switches_roles
                if not switches_roles and not gateway["closed_loop"][0] and recovery is None:
                    write_ends(gateway, [spec.role in HAND_OUT for spec in self.specs])
        if migrate_period_s is not None:
            if transfers is None:
                raise BurstenvError("migrate_period_s needs transfers: what it takes to move KV blocks")
            gateway["migrate_period_s"] = seconds(migrate_period_s, "migrate_period_s", LEAST_STEP_S)
        if recovery is not None:
            write_recovery(gateway, recovery)
        self.scaling = scaling
        self.scaling_rule: tuple[int, tuple[float, ...]] = SCALED_BY_CALLER, ()
        self.scaling_advises = False
        if scaling is not None:
            write_scaling(gateway, scaling, self.num_replicas)
            self.state.specs["cold_start_s"] = [cold_start_s(scaling.cold_start, spec) for spec in self.specs]
        self.background = background
        self.background_rule = BackgroundRule()
        if background is not None:
            write_background(gateway, background)
            write_works(self.state, works_of(background, self.specs))
        self._begin_background_by(self.background_rule, None)
        self.flow_rule: tuple[int, tuple[float, ...]] = AT_ONCE, ()
        write_table(self.state, tenants)
        if flow is not None:
            if gateways > 1:
                raise BurstenvError("a queue at the gateway needs one gateway; its counters are not shared by several")
            gateway["queues"], gateway["look_s"] = 1, flow.look_s
        self.state.environments["tick_s"] = np.inf if tick_s is None else tick_s
        self.set_worth([1.0] * self.state.layout.num_classes)
        self._direct = [None] * num_envs
        self.stop_to_place(True)
        self.place_by(*self.placement_rule)

    def set_worth(self, values: Sequence[float], by_tokens: float = 0.0, output_weight: float = 1.0) -> None:
        """Set what agents and look-ahead know of worth, see :mod:`burstenv.envs.worth`.

        Args:
            values: Of each class.
            by_tokens: Share of the worth by tokens.
            output_weight: Of an output token beside a prompt token.
        """
        self.state.gateway["by_tokens"], self.state.gateway["output_weight"] = by_tokens, output_weight
        for i in range(self.num_envs):
            self.state.classes(i)["value"] = values

    def see_stale(self, delay_s: float, period_s: float, count_sent: bool) -> None:
        """Let decisions see metrics that are read every ``period_s`` and take ``delay_s`` to arrive; 0: fresh ones.

        Holds from the next episode on. ``count_sent`` adds what was sent to a replica since the reading.
        """
        if not 0.0 <= delay_s <= period_s < np.inf or 0.0 < period_s < LEAST_STEP_S:
            raise BurstenvError(
                f"delay_s must lie between 0 and period_s, and period_s be 0 or at least {LEAST_STEP_S:g} s, got "
                f"{delay_s!r} and {period_s!r}"
            )
        gateway = self.state.gateway
        gateway["scrape_period_s"] = period_s
        gateway["scrape_delay_s"] = delay_s
        gateway["count_sent"] = count_sent and period_s > 0.0

    def see_log(self, relays: bool = True) -> None:
        """Let decisions see the gateway's own log, which is always fresh.

        Without ``relays`` answers do not pass through the gateway: of a request it knows when it was sent and when its
        connection closed, see :class:`burstenv.cluster.gateway_log.GatewayLog`.
        """
        self.state.gateway["knows_log"] = 1
        self.state.gateway["relays"] = relays

    def check_log(self, reader: str) -> None:
        """Raise a one-sentence error if decisions do not see the gateway's log, which ``reader`` needs."""
        if not self.state.gateway["knows_log"][0]:
            raise hidden_log(reader)

    def check_faults(self, reader: str) -> None:
        """Raise a one-sentence error unless replicas may fail, as ``reader`` expects.

        Raises:
            BurstenvError: If they serve for ever.
        """
        if self.recovery is None:
            raise BurstenvError(
                f"{reader} is for replicas that can fail, and those of this cluster serve for ever; leave it out, or "
                f"give faults"
            )

    def hold_copies(self, sender: str) -> None:
        """Make room for a second copy of each request, as ``sender`` may send one; see ``cluster/faults/hedges.py``.

        Raises:
            BurstenvError: Where copies cannot be: replicas serve for ever or train in the slack, KV blocks move, or
                requests wait in a queue.
        """
        self.check_faults(sender)
        for there, name in (
            (self.transfers, "transfers of KV blocks"),
            (self.flow, "a queue at the gateway"),
            (self.background, "fine-tuning in the slack"),
        ):
            if there is not None:
                raise BurstenvError(f"{sender} sends requests to two replicas at once, which cannot go with {name}")
        self.hedges = True
        self.state.grow_requests(2 * int(self.state.environments["num_requests"].max()))

    def next_epoch(self, i: int) -> int:
        """Advance cluster ``i`` to its next decision epoch; return the request at the gateway, or -1.

        Raises:
            BurstenvError: When a replica is in livelock, as the reference engine does.
        """
        i = place(i, self.num_envs, "i")
        self._drive(i, direct=False)
        next_epoch_at(*self.state.arrays(), i)
        self.check_livelock(i)
        return self.at_gateway(i)

    def decide(self, i: int, admission: int, replica: int = 0, mode: int = 0) -> None:
        """Decide about the request at the gateway (0 reject, 1 admit, 2 defer) and a replica's mode."""
        i, replica = place(i, self.num_envs, "i"), place(replica, self.num_replicas, "replica")
        admission, mode = place(admission, 3, "admission"), place(mode, len(self.mode_names), "mode")
        if self.state.environments["done"][i]:
            raise BurstenvError(f"the episode of cluster {i} is over: nothing is left to decide; load another one")
        if self.state.environments["migrating"][i]:
            raise BurstenvError(f"the decision of cluster {i} is about a migration: call migrate, or just next_epoch")
        if self.state.environments["scaling"][i]:
            raise BurstenvError(f"the decision of cluster {i} is about its replicas: call scale, or just next_epoch")
        decide_at(*self.state.arrays(), i, admission, replica, mode)

    def migrate(self, i: int, source: int, destination: int, pick: Pick = Pick.SHORTEST) -> bool:
        """Begin to migrate a request of replica ``source`` of cluster ``i``; ``pick`` says which.

        Returns:
            Whether one is on its way. None is if the replica has no decoding request, either end takes part in a
            transfer, or the destination has another model, a shorter model length or too few free blocks.
        """
        i = place(i, self.num_envs, "i")
        source, destination = (
            place(source, self.num_replicas, "source"),
            place(destination, self.num_replicas, "destination"),
        )
        if self.transfers is None:
            raise BurstenvError("this cluster was made without transfers: its KV blocks stay where they are")
        begun = int(self.state.environments["migrations_begun"][i])
        migrate_at(*self.state.arrays(), i, source, destination, int(place(pick, len(Pick), "pick")))
        return int(self.state.environments["migrations_begun"][i]) > begun

    def set_role(self, i: int, replica: int, role: str) -> None:
        """Let a replica of cluster ``i`` have another role, one of ROLES, from its next iteration on.

        Requests that it decodes stay. Prompts that it has are computed there; where they decode is decided if it hands
        requests out when the last part of them is scheduled. Each episode begins with the roles of the specifications.
        """
        i, replica = place(i, self.num_envs, "i"), place(replica, self.num_replicas, "replica")
        if role not in ROLES:
            raise unknown_name("role", str(role), ROLES)
        if not self.state.gateway["switches_roles"][0]:
            raise BurstenvError("this cluster was made with fixed roles: make it with switches_roles=True")
        set_role_at(*self.state.arrays(), i, replica, ROLES.index(role))

    def scale(self, i: int, replicas: int | Sequence[bool]) -> None:
        """Ask for a number of replicas of cluster ``i``, or say of each, R of them, whether it is to serve.

        The number is kept between the least and the most of :class:`ScalingConfig`. Of the replicas, those that drain
        are started first; those with the fewest requests are stopped first.
        """
        i = place(i, self.num_envs, "i")
        if self.scaling is None:
            raise BurstenvError("this cluster was made without scaling: its number of replicas stays as it is")
        if self.state.environments["done"][i]:
            raise BurstenvError(f"the episode of cluster {i} is over: nothing is left to decide; load another one")
        if isinstance(replicas, Sequence | np.ndarray):
            wanted = np.asarray(replicas)
            right = wanted.shape == (self.num_replicas,) and wanted.dtype.kind in "bi"
            if not right or not np.isin(wanted, (0, 1)).all():
                raise BurstenvError(
                    f"replicas must be a number, or {self.num_replicas} of True and False, got {replicas!r:.80}"
                )
            scale_at(*self.state.arrays(), i, -1, wanted.astype(np.int64))
        else:
            number = place(replicas, self.num_replicas + 1, "replicas")
            scale_at(*self.state.arrays(), i, number, np.zeros(0, np.int64))
