"""An upper bound on the attainment of any policy on an episode of a scenario.

The bound has full knowledge and more freedom in scheduling than any policy. Take an episode without closed loops, in
which arrival times do not depend on the policy, and let ``x[j, r]`` in [0, 1] be the share of request j that replica r
serves within both objectives. For any policy:

1. *Alone.* A request that misses an objective alone on replica r also misses it with other requests, because an
   iteration with more work takes no less time: then ``x[j, r] = 0``.
2. *Once.* ``sum over r of x[j, r] <= 1``.
3. *Time.* Every iteration of replica r takes at least ``a + p P + b D + c K + h A`` for P prefill tokens, D decodes
   that read K context tokens, and prefill attention A (``Floor``; exact for the hinge form above its floor, a
   supporting line of the tables). Request j adds to its own iterations at least

       prefill_j = p P_j + h P_j (P_j + 1) / 2   and   decode_j = sum over k of w_jk,   w_jk = b + c (P_j + k - 1),

   k from 1 to n_j = outputs - 1. Recomputation only adds to it. With prefix caching only tokens count that no request
   of the same stream could share, in prefill and in KV blocks (but c counts all context read). All requests in an
   iteration share its ``a``, and the number of iterations has two lower bounds. *Memory*: the context of an iteration
   fits into the KV cache, ``K <= C`` tokens, so there are at least ``sum of K / C``. *Pace*: a request that meets a
   TPOT objective t_j is in at least n_j iterations that together take at most ``n_j t_j``, so their work beyond the
   fixed part takes at most ``n_j (t_j - a)``. Weigh this by any l_j >= 0 and sum over requests; L_i be the sum of the
   l_j in iteration i, W_i that of their w. As ``1 >= 2 sqrt(L_i W_i) - L_i W_i``, and ``sqrt(L_i W_i) >= sum of
   sqrt(l_j w_jk)`` (Cauchy and Schwarz), there are at least ``sum over j of 2 sqrt(l_j) B_j - l_j n_j (t_j - a)``
   iterations, B_j being the sum of ``sqrt(w_jk)``; with the best l_j that is ``sum over j of B_j^2 / (n_j (t_j - a))``.
   Large batches are slow, so a tight pace means many iterations.
4. *Windows.* An attained request is prefilled between its arrival and its TTFT deadline, and all done by that plus
   ``n_j t_j``. A replica's iterations do not overlap, so all work must fit into the available time. Replicas of one
   kind share theirs.

The largest sum of rewards under 1 to 4 is a linear program in which work may be placed anywhere in its window, and both
counts of iterations are separate constraints. Its dual bounds it for *any* prices of machine time (``prices.py``; the
idea of bounds by information relaxation with penalties, Brown, Smith and Sun, Operations Research 2010, and of
time-indexed relaxations in scheduling, Queyranne and Schulz, 1994).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from burstenv.cluster import Cluster
from burstenv.errors import BurstenvError
from burstenv.evaluation.bound.prices import Work, most_earned
from burstenv.hardware.latency.hinge import HINGE

Array = NDArray[np.float64]
STEPS = 300  # of the search for prices
SHARES = (1.0, 0.75, 0.5, 0.25, 0.0)  # of the shortest iteration, counted as its fixed part
_SLACK = 1e-6  # single precision of the objectives


@dataclass(frozen=True)
class Floor:
    """A linear lower bound of a replica's iteration times [s]; see the module.

    Attributes:
        iteration_s: a.
        prefill_s: p, per prefill token.
        decode_s: b, per decode.
        context_s: c, per context token.
        attention_s: h, per unit of prefill attention.
        least_s: The shortest iteration.
        cache_tokens: C.
        longest: Model length [tokens].
        caching: Whether a recomputation may find its tokens in a prefix cache.
    """

    iteration_s: float
    prefill_s: float
    decode_s: float
    context_s: float
    attention_s: float
    least_s: float
    cache_tokens: int
    longest: int
    caching: bool = False

    @classmethod
    def of(cls, replica: Any, share: float = 1.0) -> Floor:
        """Return a bound for a SPEC record, with ``share`` of its shortest dense time in a."""
        cache, longest = int(replica["num_blocks"] * replica["block_size"]), int(replica["max_model_len"])
        host_s, sequence_s = float(replica["per_iteration_s"]), float(replica["per_sequence_s"])
        if replica["latency_kind"] == HINGE:
            h = [float(replica[f"h{k}_s"]) for k in range(6)]
            if min(h) < 0.0:
                return cls(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, cache, longest)
            flat = max(0.0, (h[0] - h[1]) * share)  # max(h0, h1 + h2 x) lies above lines between its two pieces
            slope = h[2] * (1.0 - flat / (h[0] - h[1])) if flat > 0.0 else h[2]
            return cls(
                h[1] + flat + host_s, slope, slope + h[5] + sequence_s, h[4], h[3], max(h[0], h[1]) + host_s,
                cache, longest,
            )  # fmt: skip
        return cls._of_tables(replica, share, cache, longest)

    @classmethod
    def _of_tables(cls, replica: Any, share: float, cache: int, longest: int) -> Floor:
        def table(knots: str, count: str, values: str) -> tuple[Array, Array]:
            used = int(replica[count])
            return replica[knots][:used].astype(np.float64), replica[values][:used].astype(np.float64)

        tokens, dense = table("dense_tokens", "dense_knots", "dense_s")
        base = share * float(dense.min())
        slope = float(replica["dense_beyond_s"])
        if (tokens > 0.0).any():  # pieces lie above a line that their ends lie above
            slope = min(slope, float(((dense - base)[tokens > 0.0] / tokens[tokens > 0.0]).min()))
        head = cls._least(*table("head_sequences", "head_knots", "head_s"), far=1e4)
        prefill = cls._least(*table("prefill_tokens", "prefill_knots", "prefill_base_s"), far=1e6)
        decode = cls._least(*table("decode_sequences", "decode_knots", "decode_base_s"), far=1e4)
        _, context = table("decode_sequences", "decode_knots", "decode_context_s")
        context_s = min(float(context.min()), cls._mixed_context_s(replica, longest))
        beside = cls._least(*table("mixed_decodes", "mixed_knots", "mixed_prefill_s"), far=1e4)
        prefill_s = slope + min(0.0, beside)
        host_s = float(replica["per_iteration_s"])
        iteration_s = base + head + min(prefill, decode) + host_s
        if min(iteration_s, prefill_s, slope, context_s) < 0.0:
            return cls(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, cache, longest)
        decode_s = slope + float(replica["per_sequence_s"])
        least_s = iteration_s + float(dense.min()) - base
        return cls(iteration_s, prefill_s, decode_s, context_s, 0.0, least_s, cache, longest)

    @staticmethod
    def _least(knots: Array, values: Array, far: float) -> float:
        """Return the least value of a table, with its last piece extended to ``far``."""
        beyond = values[-1] + (values[-1] - values[-2]) / (knots[-1] - knots[-2]) * max(0.0, far - knots[-1])
        return min(float(values.min()), float(beyond))

    @staticmethod
    def _mixed_context_s(replica: Any, longest: int) -> float:
        """Return the least time per context token of decodes beside a prefill: the minimum at the table's corners."""
        rows, columns = int(replica["mixed_knots"]), int(replica["mixed_context_knots"])
        stride = len(replica["mixed_context_tokens"])
        decodes = replica["mixed_decodes"][:rows].astype(np.float64)
        context = replica["mixed_context_tokens"][:columns].astype(np.float64)
        times = replica["mixed_s"].reshape(-1, stride)[:rows, :columns].astype(np.float64)
        if (times < 0.0).any():
            return -1.0

        def further(values: Array, knots: Array, at: float) -> Array:
            """Return a table with one more column that extends its last piece."""
            slope = (values[:, -1] - values[:, -2]) / (knots[-1] - knots[-2])
            return np.column_stack([values, values[:, -1] + slope * max(0.0, at - knots[-1])])

        most_decodes, most_context = 4096.0, float(max(longest, context[-1]))
        times = further(times, context, most_context)
        context = np.append(context, max(most_context, context[-1]))
        times = further(times.T, decodes, most_decodes).T
        decodes = np.append(decodes, max(most_decodes, decodes[-1]))
        read = np.outer(decodes, context)
        return float((times[read > 0.0] / read[read > 0.0]).min()) if (read > 0.0).any() else 0.0


@dataclass(frozen=True)
class _Costs:
    """Cost of requests on one kind of replica, (n,) each; infinite if objectives cannot be met."""

    prefill_s: Array
    decode_s: Array  # iterations counted by memory
    paced_s: Array  # the same, iterations counted by pace
    possible: NDArray[np.bool_]


def _shared_tokens(requests: NDArray[Any]) -> Array:
    """Return the number of prompt tokens that another request of the stream may have computed before, (n,)."""
    shared = np.zeros(len(requests))
    longest: dict[int, float] = {}
    total = requests["prompt_tokens"].astype(np.float64) + requests["output_tokens"]
    for k, stream in enumerate(requests["stream"].tolist()):
        if requests["prefix_tokens"][k] > 0:
            shared[k] = requests["prompt_tokens"][k]  # a prefix of its own stream: all may be cached
        else:
            shared[k] = min(longest.get(stream, 0.0), float(requests["prompt_tokens"][k]))
        longest[stream] = max(longest.get(stream, 0.0), float(total[k]))
    return shared


def _costs(floor: Floor, requests: NDArray[Any], shared: Array) -> _Costs:
    prompt = requests["prompt_tokens"].astype(np.float64)
    output = np.minimum(requests["output_tokens"], np.maximum(1, floor.longest - requests["prompt_tokens"]))
    steps = np.maximum(0.0, output.astype(np.float64) - 1.0)
    computed = np.maximum(1.0, prompt - shared)
    attention = prompt * (prompt + 1.0) / 2.0 - shared * (shared + 1.0) / 2.0
    prefill_s = floor.prefill_s * computed + floor.attention_s * np.maximum(0.0, attention)
    positions = steps * (steps - 1.0) / 2.0  # sum of k - 1
    read, held = steps * prompt + positions, steps * (prompt - shared) + positions
    own_s = floor.decode_s * steps + floor.context_s * read
    decode_s = own_s + floor.iteration_s * np.maximum(0.0, held) / floor.cache_tokens
    paced_s = own_s + floor.iteration_s * _by_pace(floor, requests, steps)
    alone_s = np.maximum(floor.least_s, floor.iteration_s + prefill_s)
    each_s = np.maximum(floor.least_s, floor.iteration_s + floor.decode_s + floor.context_s * prompt)
    possible = (
        (requests["prompt_tokens"] < floor.longest)
        & (prompt - shared <= floor.cache_tokens)
        & (alone_s <= requests["ttft_slo_s"] * (1.0 + _SLACK) + _SLACK)
        & ((steps == 0.0) | (each_s <= requests["tpot_slo_s"] * (1.0 + _SLACK) + _SLACK))
    )
    return _Costs(prefill_s, decode_s, paced_s, possible)


def _by_pace(floor: Floor, requests: NDArray[Any], steps: Array) -> Array:
    """Return the least number of iterations for decoding at the requests' pace: ``B^2 / (n (t - a))``."""
    step_s, context_s = floor.decode_s, floor.context_s
    # A token may also come from a recomputation after a preemption. That takes at least two tokens of prefill, or, with
    # prefix caching, one whose context is read.
    if floor.caching:
        step_s, context_s = min(step_s, floor.prefill_s), min(context_s, floor.attention_s)
    elif floor.prefill_s < max((step_s + context_s) / 2.0, context_s):
        step_s, context_s = min(step_s, floor.prefill_s), 0.0
    prompt = requests["prompt_tokens"].astype(np.float64)
    left_s = requests["tpot_slo_s"].astype(np.float64) * (1.0 + _SLACK) + _SLACK - floor.iteration_s
    if context_s > 0.0:  # the sum of square roots is at least the integral from one step before
        low_s = step_s + context_s * np.maximum(0.0, prompt - 1.0)
        roots = ((low_s + context_s * steps) ** 1.5 - low_s**1.5) / (1.5 * context_s)
    else:
        roots = steps * np.sqrt(step_s)
    paced = (steps > 0.0) & (left_s > 0.0) & np.isfinite(left_s)
    return np.divide(roots**2, steps * left_s, out=np.zeros(len(steps)), where=paced)


def _floors(records: NDArray[Any], requests: NDArray[Any]) -> list[Floor]:
    """Return the floor of each replica with the longest times of the requests, of those along its tables."""
    nothing = np.zeros(len(requests))

    def work_s(floor: Floor) -> float:
        cost = _costs(floor, requests, nothing)
        return float((cost.prefill_s + cost.decode_s).sum())

    best = [max((Floor.of(record, share) for share in SHARES), key=work_s) for record in records]
    return [replace(f, caching=bool(record["prefix_caching"])) for f, record in zip(best, records, strict=True)]


@dataclass(frozen=True)
class Bound:
    """The bound of one episode.

    Attributes:
        reward: Largest reward of any policy.
        offered: Reward with all requests attained.
        possible: Requests that are attainable alone on a replica.
    """

    reward: float
    offered: float
    possible: int

    @property
    def share(self) -> float:
        """The bound as a share of the offered reward."""
        return self.reward / max(self.offered, 1e-12)


def upper_bound(cluster: Cluster, requests: NDArray[Any], gains: Array | None = None, steps: int = STEPS) -> Bound:
    """Return an upper bound on the reward of any policy on an episode, clairvoyant or not.

    Args:
        cluster: The cluster, for its replicas; not touched.
        requests: (n,) REQUEST as the episode was drawn.
        gains: Gain of each attained request, (n,); None: 1.
        steps: Steps of the search for prices; more of them are slower and lower the bound.

    Raises:
        BurstenvError: With closed loops, where arrival times depend on the policy.
    """
    if cluster.clients is not None and cluster.clients.closed_loop is not None:
        raise BurstenvError("closed-loop sessions have no bound, because arrival times depend on the policy")
    requests = requests.copy()
    gain = np.ones(len(requests)) if gains is None else np.asarray(gains, np.float64)
    records = cluster.state.specs
    floors = _floors(records, requests)
    caching = bool(records["prefix_caching"].any())
    shared = np.zeros(len(requests))
    if caching:
        from burstenv.cluster.cluster import number_streams

        number_streams(requests)
        shared = _shared_tokens(requests)
    kinds = list(dict.fromkeys(floors))
    counts = [floors.count(kind) for kind in kinds]
    costs = [_costs(kind, requests, shared) for kind in kinds]
    possible = np.any([cost.possible for cost in costs], axis=0)
    work = [[Work(c.prefill_s, c.decode_s), Work(c.prefill_s, c.paced_s)] for c in costs]
    value = most_earned(gain, _windows(requests), work, [c.possible for c in costs], counts, steps)
    return Bound(min(value, float(gain[possible].sum())), float(gain.sum()), int(possible.sum()))


def _windows(requests: NDArray[Any]) -> tuple[Array, Array, Array]:
    """Return arrival times, and deadlines of prefill and completion for attainment [s], (n,) each."""
    arrival_s = requests["arrival_s"].astype(np.float64)
    slack = 1.0 + _SLACK
    first_s = arrival_s + requests["ttft_slo_s"].astype(np.float64) * slack + _SLACK
    steps = np.maximum(0, requests["output_tokens"] - 1)
    return arrival_s, first_s, first_s + steps * requests["tpot_slo_s"].astype(np.float64) * slack
