"""Routers that were compared on real replicas, compared again in simulation: who wins, and by how much.

The record (JSON) holds the replicas, a workload of shared prefixes in stages of rising rate, and for each rate and
router the mean TTFT and the throughput. The routers are those of the Gateway API inference extension and llm-d: a
weighted sum of scorers in [0, 1], the highest taken, equal ones at random.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from burstenv._jit.decorators import entry
from burstenv.cluster.cluster import VLLM_MODE, Cluster, request_array
from burstenv.cluster.cluster_config import ReplicaSpec
from burstenv.cluster.world import Arrays, engine_of, world_of
from burstenv.engine.enums import NO_REQUEST
from burstenv.engine.prefix_hits import prefix_hit_tokens
from burstenv.errors import BurstenvError
from burstenv.evaluation.validation.server import Server, ServerOptions, front_end_of, resolve_server
from burstenv.hardware.engine_profile import engine_profile
from burstenv.hardware.host import FrontEndConfig

BLOCK_TOKENS = 16
SCRAPE_S = 1.0  # between two readings of the replicas' metrics: bursts of TTFT at low rates are of that length
DRAIN_S = 240.0  # between stages: each is drained before the next
WEIGHTS = {  # of prefix, queue and KV use: llm-d's guide to precise routing, and the extension's defaults
    "precise": (3.0, 2.0, 2.0), "estimated": (1.0, 1.0, 1.0), "load": (0.0, 1.0, 1.0),
}  # fmt: skip
REMEMBERED_TOKENS = 500_000  # of each replica, in a router that estimates: 31,250 blocks of 64 characters
MATCHED_TOKENS = 4_096  # of a prompt, in the same router: 256 blocks of 64 characters
ROUTERS = ("precise", "estimated", "load", "random")
NEEDED = ("model", "gpu", "tensor_parallel", "replicas", "groups", "prompts_per_group", "shared_prefix_tokens",
          "question_tokens", "output_tokens", "stages", "measured")  # fmt: skip


@entry
def _hit_tokens_at(
    environments, memories, replicas, arenas, requests, gateway, specs, modes, i, r, request_id
):  # fmt: skip
    """Return the prompt tokens of a request that replica number ``r`` of cluster ``i`` has cached."""
    world = world_of(Arrays(environments, memories, replicas, arenas, requests, gateway, specs, modes), i)
    return prefix_hit_tokens(engine_of(world, r), request_id)


@dataclass(frozen=True)
class RouterValidation:
    """Mean TTFT [s] and output tokens/s by rate and router, measured and simulated."""

    name: str
    rates: tuple[float, ...]
    measured: Mapping[tuple[float, str], tuple[float, float]]
    simulated: Mapping[tuple[float, str], tuple[float, float]]
    notes: tuple[str, ...]

    def pairs(self) -> tuple[int, int]:
        """Return how many pairs of routers at a rate are ordered as measured by TTFT, and how many there are."""
        agreed = total = 0
        for rate in self.rates:
            of = [router for router in ROUTERS if (rate, router) in self.measured]
            for a, b in combinations(of, 2):
                total += 1
                agreed += int(
                    (self.measured[rate, a][0] < self.measured[rate, b][0])
                    == (self.simulated[rate, a][0] < self.simulated[rate, b][0])
                )
        return agreed, total

    def gains(self) -> tuple[float, float]:
        """Return how many times the throughput of routing by load precise routing has at the last rate, both ways."""
        rate = self.rates[-1]
        return tuple(  # type: ignore[return-value]
            values[rate, "precise"][1] / values[rate, "load"][1] for values in (self.measured, self.simulated)
        )

    def lines(self) -> list[str]:
        """Return the table to show."""
        lines = [f"{self.name}: mean TTFT [s] measured -> simulated, by requests/s"]
        lines.append(f"{'':<8}" + "".join(f"{router:>22}" for router in ROUTERS))
        for rate in self.rates:
            cells = [
                f"{self.measured[rate, r][0]:>10.3g} ->{self.simulated[rate, r][0]:>9.3g}"
                if (rate, r) in self.measured
                else f"{'-':>22}"
                for r in ROUTERS
            ]
            lines.append(f"{rate:<8g}" + "".join(cells))
        lines += self.notes
        return [*lines, self.summary()]

    def summary(self) -> str:
        """Return the one line: pairs in order, and the gain."""
        agreed, total = self.pairs()
        line = (
            f"routers: {agreed} of {total} pairs in the measured order of TTFT ({100 * agreed / max(total, 1):.0f} %)"
        )
        if all((self.rates[-1], r) in self.measured for r in ("precise", "load")):
            real, simulated = self.gains()
            line += f"; precise over load at {self.rates[-1]:g}/s: {real:.2f} times measured, {simulated:.2f} simulated"
        return line

    def values(self) -> dict[str, Any]:
        """Return the same as plain values."""
        agreed, total = self.pairs()
        return {
            "name": self.name,
            "rates": [
                {
                    "rate_per_s": rate,
                    "routers": {
                        router: {
                            "ttft_measured_s": self.measured[rate, router][0],
                            "ttft_simulated_s": self.simulated[rate, router][0],
                            "output_tokens_per_s_measured": self.measured[rate, router][1],
                            "output_tokens_per_s_simulated": self.simulated[rate, router][1],
                        }
                        for router in ROUTERS
                        if (rate, router) in self.measured
                    },
                }
                for rate in self.rates
            ],
            "pairs": total,
            "agreed": agreed,
            "notes": list(self.notes),
            "summary": self.summary(),
        }


def is_router_file(path: Path) -> bool:
    """Return whether a JSON file is a comparison of routers."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(record, dict) and {"stages", "measured", "replicas"} <= set(record)


def validate_routers(path: Path | str, options: ServerOptions | None = None) -> RouterValidation:
    """Replay a comparison of routers.

    Raises:
        BurstenvError: When the file cannot be read or lacks a key, or the server is not known.
    """
    path = Path(path)
    record = _read(path)
    measured = _measured(record, path)
    server = resolve_server(
        options or ServerOptions(), str(record["model"]), str(record["gpu"]), int(record["tensor_parallel"]), False, {},
        str(path),
    )  # fmt: skip
    front_end = front_end_of(options or ServerOptions(), True)
    routers = [router for router in ROUTERS if any(key[1] == router for key in measured)]
    simulated: dict[tuple[float, str], tuple[float, float]] = {}
    for router in routers:
        for rate, values in _simulate(record, server, router, front_end).items():
            simulated[rate, router] = values
    rates = tuple(rate for rate in sorted({key[0] for key in measured}) if (rate, routers[0]) in simulated)
    return RouterValidation(path.stem, rates, measured, simulated, server.notes)


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BurstenvError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise BurstenvError(f"{path}: not valid JSON ({error})") from None
    missing = [key for key in NEEDED if not isinstance(record, dict) or key not in record]
    if missing:
        raise BurstenvError(f"{path}: a comparison of routers needs {', '.join(NEEDED)}; missing: {', '.join(missing)}")
    return dict(record)


def _measured(record: Mapping[str, Any], path: Path) -> dict[tuple[float, str], tuple[float, float]]:
    measured = {}
    try:
        for rate, of in record["measured"].items():
            for name, values in of.items():
                router = next((r for r in ROUTERS if name.startswith(r)), None)
                if router is not None:
                    measured[float(rate), router] = (
                        float(values["ttft_mean_s"]), float(values["output_tokens_per_s"]),
                    )  # fmt: skip
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BurstenvError(
            f"{path}: measured must hold, by rate and router, ttft_mean_s and output_tokens_per_s ({error!r})"
        ) from None
    if not measured:
        raise BurstenvError(f"{path}: none of the routers {', '.join(ROUTERS)} was measured")
    return measured


def _requests(record: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return the requests of all stages, (n,) REQUEST, and the stage of each, (n,)."""
    rng = np.random.default_rng(0)
    arrivals, stages, start_s = [], [], 0.0
    for k, stage in enumerate(record["stages"]):
        count = round(float(stage["rate_per_s"]) * float(stage["duration_s"]))
        gaps = rng.exponential(1.0 / float(stage["rate_per_s"]), count)
        arrivals.append(start_s + np.cumsum(gaps))
        stages.append(np.full(count, k))
        start_s = float(arrivals[-1][-1]) + DRAIN_S
    arrival_s, stage_of = np.concatenate(arrivals), np.concatenate(stages)
    n, each = len(arrival_s), int(record["prompts_per_group"])
    prompts = int(record["groups"]) * each
    order = np.concatenate([rng.permutation(prompts) for _ in range(n // prompts + 1)])[:n]
    prompt_tokens = int(record["shared_prefix_tokens"]) + int(record["question_tokens"])
    requests = request_array(arrival_s, np.full(n, prompt_tokens), np.full(n, int(record["output_tokens"])))
    requests["prefix_tokens"] = int(record["shared_prefix_tokens"])
    requests["prefix_stream"] = order // each
    requests["stream"] = int(record["groups"]) + order
    return requests, stage_of


def _simulate(
    record: Mapping[str, Any], server: Server, router: str, front_end: FrontEndConfig
) -> dict[float, tuple[float, float]]:
    """Return mean TTFT [s] and output tokens/s of one router by rate; the first stage warms the caches up."""
    requests, stage_of = _requests(record)
    blocks = int(record.get("kv_tokens_per_replica", 300_000)) // BLOCK_TOKENS
    defaults = engine_profile().limits(server.hardware)
    spec = ReplicaSpec(
        name="replica", model=str(record["model"]), hardware=str(record["gpu"]),
        tensor_parallel=server.tensor_parallel, num_blocks=blocks, block_size=BLOCK_TOKENS,
        max_model_len=blocks * BLOCK_TOKENS, reserve_full_prompt=True, prefix_caching=True,
        default_max_num_batched_tokens=defaults.max_num_batched_tokens,
        default_max_num_seqs=defaults.max_num_seqs, latency=server.latency,
    )  # fmt: skip
    count = int(record["replicas"])
    longest = int(requests["prompt_tokens"][0] + requests["output_tokens"][0])
    cluster = Cluster([spec] * count, [VLLM_MODE], 1, len(requests), max_request_tokens=longest)
    cluster.load(0, requests)
    choose = _router(router, cluster, record, requests)
    while (at := cluster.next_epoch(0)) != NO_REQUEST:
        cluster.decide(0, 1, choose(at))
    records = cluster.records(0)
    if np.isnan(records["finish_s"]).any():
        raise BurstenvError(f"{record['model']}: requests were left over; the KV cache of {blocks} blocks is too small")
    values = {}
    delay_s = front_end.delay_s(int(requests["prompt_tokens"][0]))
    for k, stage in enumerate(record["stages"]):
        if k > 0:
            of = records[stage_of == k]
            span_s = float(of["finish_s"].max() - of["arrival_s"].min())
            ttft_s = float((of["first_token_s"] - of["arrival_s"]).mean()) + delay_s
            values[float(stage["rate_per_s"])] = (ttft_s, float(of["output_tokens"].sum()) / span_s)
    return values


def _router(
    name: str, cluster: Cluster, record: Mapping[str, Any], requests: np.ndarray
) -> Callable[[int], int]:  # fmt: skip
    """Return the choice of a router: from the number of a request to the replica."""
    rng = np.random.default_rng(1)
    count = cluster.num_replicas
    if name == "random":
        return lambda _: int(rng.integers(count))
    loads = _Scraped(cluster)
    prefix_weight, queue_weight, cache_weight = WEIGHTS[name]
    prefix: _Precise | _Estimated | None = None
    if name != "load":
        prefix = _Precise(cluster, requests) if name == "precise" else _Estimated(record, requests, count)

    def choose(at: int) -> int:
        score = queue_weight * loads.queue_score() + cache_weight * loads.cache_score()
        if prefix is not None:
            score = score + prefix_weight * prefix.score(at)
        best = int(rng.choice(np.flatnonzero(score >= score.max() - 1e-9)))
        if prefix is not None:
            prefix.sent(at, best)
        return best

    return choose


class _Scraped:
    """Queue lengths and KV use of the replicas as read once a period."""

    def __init__(self, cluster: Cluster):
        self._cluster = cluster
        self._read_s = -np.inf
        self._waiting = self._used = np.zeros(cluster.num_replicas)

    def _read(self) -> None:
        now_s = float(self._cluster.state.environments["now_s"][0])
        if now_s >= self._read_s + SCRAPE_S:
            replicas = self._cluster.state.replicas[0]
            self._read_s = np.floor(now_s / SCRAPE_S) * SCRAPE_S
            self._waiting = replicas["waiting"].astype(float)
            self._used = 1.0 - replicas["free_blocks"] / self._cluster.state.specs["num_blocks"]

    def queue_score(self) -> np.ndarray:
        """Return 1 for the shortest queue, 0 for the longest, (R,)."""
        self._read()
        low, high = self._waiting.min(), self._waiting.max()
        return np.ones_like(self._waiting) if high == low else (high - self._waiting) / (high - low)

    def cache_score(self) -> np.ndarray:
        """Return the share of free KV blocks, (R,)."""
        self._read()
        return 1.0 - self._used


class _Precise:
    """Prefix hits as the replicas' KV events tell them."""

    def __init__(self, cluster: Cluster, requests: np.ndarray):
        self._cluster, self._tokens = cluster, requests["prompt_tokens"]

    def score(self, at: int) -> np.ndarray:
        """Return the share of the prompt that each replica holds, (R,)."""
        arrays = self._cluster.state.arrays()
        hits = [_hit_tokens_at(*arrays, 0, r, at) for r in range(self._cluster.num_replicas)]
        return np.array(hits) / float(self._tokens[at])

    def sent(self, at: int, replica: int) -> None:
        """Need nothing: events tell."""


class _Estimated:
    """Prefix hits as a router guesses them: what it sent to a replica lately, as far as it remembers."""

    def __init__(self, record: Mapping[str, Any], requests: np.ndarray, count: int):
        self._shared, self._question = int(record["shared_prefix_tokens"]), int(record["question_tokens"])
        self._groups, self._prompts = requests["prefix_stream"], requests["stream"]
        self._memory: list[OrderedDict[tuple[str, int], int]] = [OrderedDict() for _ in range(count)]
        self._tokens = [0] * count

    def _parts(self, at: int) -> list[tuple[tuple[str, int], int]]:
        """Return the parts of a prompt that are matched: what its group shares, and what is its own."""
        shared = min(self._shared, MATCHED_TOKENS)
        own = min(self._question, MATCHED_TOKENS - shared)
        parts = [(("group", int(self._groups[at])), shared), (("prompt", int(self._prompts[at])), own)]
        return [part for part in parts if part[1] > 0]

    def score(self, at: int) -> np.ndarray:
        """Return the share of the matched prompt that each replica should hold, (R,)."""
        parts = self._parts(at)
        scores = []
        for memory in self._memory:
            held = 0
            for key, tokens in parts:
                if key not in memory:
                    break
                held += tokens
            scores.append(held / sum(tokens for _, tokens in parts))
        return np.array(scores)

    def sent(self, at: int, replica: int) -> None:
        """Remember a prompt, and forget the oldest ones beyond the memory."""
        memory = self._memory[replica]
        for key, tokens in self._parts(at):
            if key not in memory:
                self._tokens[replica] += tokens
            memory[key] = tokens
            memory.move_to_end(key)
        while self._tokens[replica] > REMEMBERED_TOKENS:
            _, tokens = memory.popitem(last=False)
            self._tokens[replica] -= tokens
