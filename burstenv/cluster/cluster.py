"""Clusters stepped from Python: a batch of them, without Gymnasium.

Example:
    >>> from burstenv.cluster import Cluster, load_cluster
    >>> cluster = Cluster(load_cluster("default"))
    >>> cluster.load(0, requests)          # a REQUEST array, sorted by arrival
    >>> cluster.next_epoch(0)              # the first request stands at the front door
    >>> cluster.decide(0, ADMIT, replica=2, mode=0)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from burstenv._jit.decorators import announce_first_use, entry
from burstenv.cluster.client_config import AFTER, Clients, ClientsConfig
from burstenv.cluster.cluster_config import ClusterConfig, ModeConfig, ReplicaSpec, resolve_cluster
from burstenv.cluster.gateway import apply_decision, next_epoch, reset_cluster
from burstenv.cluster.output_lengths import LengthModel
from burstenv.cluster.state import ClusterState
from burstenv.config import load
from burstenv.engine.arena import PoolLayout
from burstenv.engine.enums import BATCH_NAMES, CLIENT_NAMES, FIRST_SCANNED, MEMORY_NAMES, NOBODY, ORDER_NAMES, PRIORITY
from burstenv.engine.kv_cache import block_slots, bucket_count
from burstenv.engine.records import ENTRY_ID, FAILS_UPSTREAM, FOLLOWS, MODE, REQUEST
from burstenv.engine.replica import advance_replica, enqueue, finish_replica, set_mode, start_replica
from burstenv.errors import BurstenvError

CLIENT_COUNTS = ("attempts", "refusals", "abandoned", "upstream_failed", "unsent")
_CODED = {"order": ORDER_NAMES, "batch": BATCH_NAMES, "memory": MEMORY_NAMES, "fair_by": CLIENT_NAMES}
VLLM_MODE = ModeConfig(name="vllm")  # the engine's own defaults on its hardware


def load_cluster(name: str) -> tuple[ReplicaSpec, ...]:
    """Return the replicas of a shipped cluster, or of a YAML file."""
    return resolve_cluster(load(ClusterConfig, "clusters", name))


@entry
def _next_epoch_at(environments, replicas, pool, requests, i):
    next_epoch(environments[i], replicas, pool, requests, False)


@entry
def _decide_at(environments, replicas, pool, requests, modes, i, admission, replica, mode):
    apply_decision(environments[i], replicas, pool, requests, modes, admission, replica, mode)


@entry
def _reset_at(environments, replicas, pool, requests, modes, i, num_requests, seed):
    reset_cluster(environments[i], replicas, pool, requests, modes, num_requests, seed)


@entry
def _submit_at(environments, replicas, pool, requests, i, r, request_id, now_s):
    environment = environments[i]
    enqueue(
        environment,
        replicas[environment.first_replica + r],
        pool,
        requests,
        environment.first_request + request_id,
        now_s,
    )


@entry
def _advance_at(environments, replicas, pool, requests, i, r, until_s):
    environment = environments[i]
    advance_replica(environment, replicas[environment.first_replica + r], pool, requests, until_s)


@entry
def _start_at(environments, replicas, pool, requests, i, r):
    environment = environments[i]
    start_replica(environment, replicas[environment.first_replica + r], pool, requests)


@entry
def _finish_at(environments, replicas, pool, requests, i, r):
    environment = environments[i]
    finish_replica(environment, replicas[environment.first_replica + r], pool, requests)


@entry
def _set_mode_at(environments, replicas, pool, requests, modes, i, r, mode, now_s):
    set_mode(replicas[environments[i].first_replica + r], pool, requests, modes[r, mode], mode, now_s)


def needs_general_engine(spec: ReplicaSpec, modes: Sequence[ModeConfig]) -> bool:
    """Return whether a replica's rules go beyond what the fast engine leans on."""
    return (
        spec.asynchronous
        or not spec.chunked_prefill
        or not spec.validate_requests
        or spec.long_prefill_token_threshold > 0
        or any(mode.needs_general_engine for mode in modes)
    )


class Cluster:
    """``num_envs`` independent clusters of the same replicas.

    Args:
        specs: The replicas, R of them.
        modes: The batching modes a decision may choose from, M of them; the first is the initial one.
        num_envs: N.
        num_requests: E, longest episode expected; grows as needed.
        defer_s: After how long a deferred request comes back to the front door [s].
        max_defers: How often one request may be deferred.
        tick_s: Longest time without a decision epoch [s]; None: only requests make epochs.
        batching_period_s: How long a replica keeps a batching mode at least [s].
        max_request_tokens: Longest request, prompt and output, that prefix caching has to hold; None: the
            longest model length.
        clients: What the senders of requests do; None: they send and wait. Otherwise every episode that is
            loaded needs its ``Clients``.
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
    ):
        self.specs = tuple(specs)
        self.mode_names = tuple(mode.name for mode in modes)
        resolved = [[spec.resolve(mode) for mode in modes] for spec in self.specs]
        self.modes = np.zeros((len(self.specs), len(modes)), MODE)  # (R, M)
        for r, row in enumerate(resolved):
            for m, limits in enumerate(row):
                for name, value in limits.items():
                    names = _CODED.get(name)
                    self.modes[r, m][name] = value if names is None else names.index(value)
        block_sizes = {spec.block_size for spec in self.specs}
        if len(block_sizes) != 1:
            raise BurstenvError(f"all replicas of a cluster need one block_size, got {sorted(block_sizes)}")
        self.clients = clients
        self.lengths: Callable[[], LengthModel] | None = None  # what look-ahead may believe about output lengths
        self.state = ClusterState.allocate(
            num_envs, len(self.specs), num_requests, block_sizes.pop(), self._layout(modes, max_request_tokens)
        )
        if clients is not None:
            self._set_clients(clients)
        self.state.environments["defer_s"] = defer_s
        self.state.environments["max_defers"] = max_defers
        self.state.environments["tick_s"] = np.inf if tick_s is None else tick_s
        self.state.environments["batching_period_s"] = batching_period_s
        self.state.environments["class_value"] = 1.0
        self.state.environments["gpus"] = sum(spec.tensor_parallel for spec in self.specs)
        for r, spec in enumerate(self.specs):
            column = self.state.replicas[:, r]
            for name, value in spec.latency.coefficients_s().items():
                column[name] = value
            column["prefill_token_s"] = spec.latency.prefill_token_s()
            column["floor_s"] = spec.latency.iteration_s(1, 1, 0, 0, 1)
            column["num_blocks"] = spec.num_blocks
            column["block_size"] = spec.block_size
            column["per_block"] = 1.0 / spec.num_blocks
            column["per_cache_token"] = 1.0 / (spec.num_blocks * spec.block_size)
            column["max_model_len"] = spec.max_model_len
            column["reserve_full_prompt"] = spec.reserve_full_prompt
            column["general"] = needs_general_engine(spec, modes)
            column["prefix_caching"] = spec.prefix_caching
            column["chunked_prefill"] = spec.chunked_prefill
            column["validate_requests"] = spec.validate_requests
            column["long_prefill_threshold"] = spec.long_prefill_token_threshold
            column["depth"] = 2 if spec.asynchronous else 1
            column["gpus"] = spec.tensor_parallel

    def see_stale(self, delay_s: float, period_s: float, count_sent: bool) -> None:
        """Let decisions see metrics that are read every ``period_s`` and take ``delay_s`` to arrive; 0: fresh ones.

        Holds from the next episode on. ``count_sent`` adds what was sent to a replica since the reading.
        """
        if not 0.0 <= delay_s <= period_s < np.inf:
            raise BurstenvError(f"delay_s must lie between 0 and period_s, got {delay_s:g} and {period_s:g}")
        environments = self.state.environments
        environments["scrape_period_s"] = period_s
        environments["scrape_delay_s"] = delay_s
        environments["count_sent"] = count_sent and period_s > 0.0

    def _set_clients(self, clients: ClientsConfig) -> None:
        environments = self.state.environments
        environments["clients"] = 1
        if clients.closed_loop is not None:
            environments["closed_loop"] = 1
            environments["session_goes_on"] = clients.closed_loop.after_failure == "go_on"
        if clients.retries is not None:
            environments["retry_after"] = sum(AFTER[cause] for cause in set(clients.retries.after))
            environments["max_retries"] = clients.retries.max_retries
            for name in ("base_s", "factor", "max_s", "jitter"):
                environments[f"retry_{name}"] = getattr(clients.retries, name)

    def _layout(self, modes: Sequence[ModeConfig], max_request_tokens: int | None) -> PoolLayout:
        max_num_seqs = int(self.modes["max_num_seqs"].max())
        block_size = self.specs[0].block_size
        caching = [spec for spec in self.specs if spec.prefix_caching]
        if not caching:
            general = any(needs_general_engine(spec, modes) for spec in self.specs)
            return PoolLayout(block_size, max_num_seqs, general, clients=self.clients is not None)
        longest = max(spec.max_model_len for spec in caching)
        blocks = max(spec.num_blocks for spec in caching)
        table = -(-min(longest, max_request_tokens or longest) // block_size)
        return PoolLayout(
            block_size, max_num_seqs, True, block_slots(blocks), bucket_count(blocks), table, self.clients is not None
        )

    @property
    def num_envs(self) -> int:
        """N."""
        return len(self.state.environments)

    @property
    def num_replicas(self) -> int:
        """R."""
        return len(self.specs)

    def load(self, i: int, requests: np.ndarray, seed: int = 0, clients: Clients | None = None) -> None:
        """Give cluster ``i`` the requests of an episode and empty it.

        Args:
            i: Which cluster.
            requests: (n,) REQUEST, sorted by arrival, times from 0 [s].
            seed: Seed of the randomness that policies and clients in the kernel draw from.
            clients: What the clients of these requests will do, where the cluster was made with ``clients``.
        """
        # As bytes: NumPy would copy records field by field, which takes thirty times as long.
        self.room_for(i, len(requests)).view(np.uint8)[...] = np.ascontiguousarray(requests).view(np.uint8)
        self.begin(i, len(requests), seed, clients)

    def room_for(self, i: int, num_requests: int) -> np.ndarray:
        """Return where cluster ``i``'s next episode is to be written before :meth:`begin`, (num_requests,) REQUEST."""
        if num_requests > self.state.requests.shape[1]:
            self.state.grow_requests(int(num_requests * 1.25) + 16)
        return self.state.requests[i, :num_requests]

    def begin(self, i: int, num_requests: int, seed: int = 0, clients: Clients | None = None) -> None:
        """Start cluster ``i`` on the ``num_requests`` requests that were written into its state; see :meth:`load`."""
        announce_first_use()
        requests = self.state.requests[i, :num_requests]
        if self.state.replicas["prefix_caching"][i].any():
            number_streams(requests)
            self._check_tables(requests)
        self._write_clients(i, num_requests, clients)
        self.rewind(i, num_requests, seed)

    def _write_clients(self, i: int, num_requests: int, clients: Clients | None) -> None:
        if (clients is None) != (self.clients is None) or (clients is not None and len(clients) != num_requests):
            given = "none" if clients is None else f"those of {len(clients)} requests"
            wanted = "none" if self.clients is None else f"those of {num_requests} requests"
            raise BurstenvError(
                f"this cluster needs {wanted} as the clients of the episode, got {given}; draw_clients draws them"
            )
        if clients is None:
            return
        numbers = self.state.clients(i)[:num_requests]
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
        mixed = (seed * 0x9E3779B97F4A7C15 + 0x2545F4914F6CDD1D) % 2**64 | 1
        _reset_at(*self.state.arrays(), self.modes, i, num_requests, np.uint64(mixed))

    def next_epoch(self, i: int) -> int:
        """Advance cluster ``i`` to its next decision epoch; return the request at the door, or -1."""
        _next_epoch_at(*self.state.arrays(), i)
        return self.at_door(i)

    def at_door(self, i: int) -> int:
        """Return the number, within the episode, of the request at the front door; -1 for nobody."""
        environment = self.state.environments[i]
        request_id = int(environment["at_door"])
        return NOBODY if request_id == NOBODY else request_id - int(environment["first_request"])

    def decide(self, i: int, admission: int, replica: int = 0, mode: int = 0) -> None:
        """Decide about the request at the door (0 reject, 1 admit, 2 defer) and a replica's mode."""
        _decide_at(*self.state.arrays(), self.modes, i, admission, replica, mode)

    def done(self, i: int) -> bool:
        """Return whether every request of cluster ``i``'s episode is settled."""
        return bool(self.state.environments[i]["done"])

    def submit(self, i: int, replica: int, request_id: int, now_s: float) -> None:
        """Hand a request straight to a replica, past the front door."""
        _submit_at(*self.state.arrays(), i, replica, request_id, float(now_s))

    def advance(self, i: int, replica: int, until_s: float) -> None:
        """Run one replica up to ``until_s``, past the front door."""
        _advance_at(*self.state.arrays(), i, replica, float(until_s))

    def boundary_s(self, i: int, replica: int) -> float:
        """Return when the replica's iteration ends, or, when it runs none, where its clock stands [s]."""
        record = self.state.replicas[i, replica]
        runs = record["in_flight"] or record["under_way"]
        return float(record["iteration_end_s"] if runs else record["clock_s"])

    def start(self, i: int, replica: int) -> None:
        """Put the iteration that is scheduled at the replica's clock in flight, so that it can be looked at."""
        _start_at(*self.state.arrays(), i, replica)

    def finish(self, i: int, replica: int) -> None:
        """Apply the replica's oldest iteration in flight, at its end, and schedule none."""
        _finish_at(*self.state.arrays(), i, replica)

    def set_mode(self, i: int, replica: int, mode: int, now_s: float) -> None:
        """Put a batching mode in force on one replica from its next iteration on.

        ``now_s`` is the present, up to which the replica has been moved.
        """
        _set_mode_at(*self.state.arrays(), self.modes, i, replica, mode, float(now_s))

    def kv_use(self, i: int) -> tuple[float, float]:
        """Return the share of cluster ``i``'s KV blocks in use: mean over replicas and time so far, and the peak."""
        replicas, now_s = self.state.replicas[i], float(self.state.environments["now_s"][i])
        share = replicas["used_block_s"] / replicas["num_blocks"] / max(now_s, 1e-9)  # (R,)
        return float(share.mean()), float((replicas["most_used_blocks"] / replicas["num_blocks"]).max())

    def running(self, i: int, replica: int) -> list[int]:
        """Return the ids of a replica's running requests in order of admission."""
        return self._linked(i, int(self.state.replicas[i, replica]["running_head"]))

    def waiting(self, i: int, replica: int) -> list[int]:
        """Return the ids of a replica's waiting requests, next one first; under fair and mlfq in order of arrival."""
        record = self.state.replicas[i, replica]
        if record["order"] == 0 or record["order"] >= FIRST_SCANNED:
            return self._linked(i, int(record["waiting_head"]))
        entries = self.state.heaps(i)[replica]
        live, hopeless = entries[: record["live_heap_size"]], entries[len(entries) - record["hopeless_heap_size"] :]
        first = int(self.state.environments[i]["first_request"])
        if record["order"] == PRIORITY:
            numbers = live[:, ENTRY_ID] - first
            requests = self.state.requests[i, numbers]
            return numbers[np.lexsort((numbers, requests["arrival_s"], requests["priority"]))].tolist()
        keys = [np.ascontiguousarray(heap[:, :ENTRY_ID]).view(np.float64)[:, 0] for heap in (live, hopeless)]
        ids = [
            heap[np.lexsort((heap[:, ENTRY_ID], key)), ENTRY_ID]
            for heap, key in zip((live, hopeless), keys, strict=True)
        ]
        return [int(k) - first for k in np.concatenate(ids)]

    def _linked(self, i: int, head: int) -> list[int]:
        ids, first = [], int(self.state.environments[i]["first_request"])
        while head != NOBODY:
            ids.append(head - first)
            head = int(self.state.requests[i, head - first]["next"])
        return ids

    def records(self, i: int) -> np.ndarray:
        """Return cluster ``i``'s requests as they stand, (n,) REQUEST (a copy)."""
        return self.state.requests[i, : self.state.environments[i]["num_requests"]].copy()

    def client_records(self, i: int) -> np.ndarray:
        """Return what is known of the clients of cluster ``i``'s requests, (n,) CLIENT (a copy)."""
        return self.state.clients(i)[: self.state.environments[i]["num_requests"]].copy()

    def client_counts(self, i: int) -> dict[str, int] | None:
        """Return what the clients of cluster ``i`` did so far; None where they only send and wait.

        ``attempts`` (sendings), ``refusals`` (rejections, those that were followed by another attempt included),
        ``abandoned`` (requests given up for good; the late ones include them), ``upstream_failed`` (attempts that
        failed before the front door) and ``unsent`` (requests that are not offered, their session being over).
        """
        if self.clients is None:
            return None
        return {name: int(self.state.environments[i][name]) for name in CLIENT_COUNTS}


def number_streams(requests: np.ndarray) -> None:
    """Number the token streams of requests, (n,) REQUEST, in place: one for a session, one for each other.

    Requests that say themselves which streams they read (``prefix_tokens`` above 0) keep theirs.
    """
    if requests["prefix_tokens"].any():
        return
    session = requests["session"]
    alone = session < 0
    requests["stream"] = np.where(alone, int(session.max(initial=-1)) + 1 + np.cumsum(alone), session)


def request_array(
    arrival_s: np.ndarray, prompt_tokens: np.ndarray, output_tokens: np.ndarray, ttft_slo_s: float = np.inf,
    tpot_slo_s: float = np.inf,
) -> np.ndarray:  # fmt: skip
    """Return a REQUEST array with the given columns, output lengths predicted exactly, objectives open."""
    requests = np.zeros(len(arrival_s), REQUEST)
    requests["arrival_s"] = arrival_s
    requests["prompt_tokens"] = prompt_tokens
    requests["output_tokens"] = output_tokens
    requests["predicted_tokens"] = output_tokens
    requests["ttft_slo_s"] = ttft_slo_s
    requests["tpot_slo_s"] = tpot_slo_s
    requests["weight"] = 1.0
    requests["session"] = NOBODY
    return requests
