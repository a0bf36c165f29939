"""The metrics of one episode: per-request records in, named numbers with units out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from burstenv.arguments import array, checked, each, holding, number, optional
from burstenv.cluster.readings import BACKGROUND_COUNTS, CLIENT_COUNTS, FAULT_COUNTS, TRANSFER_COUNTS
from burstenv.engine.enums import ABANDONED, ATTAINED, FAILED, FAULTED, LATE, LENGTH_CAPPED, REJECTED, UNSENT
from burstenv.engine.records import REQUEST
from burstenv.errors import BurstenvError
from burstenv.evaluation.fairness import jain_index, longest_waits_s, service_gap
from burstenv.workload import CLASSES
from burstenv.workload.describe import rate_per_s
from burstenv.workload.trace import MODELS

if TYPE_CHECKING:
    from burstenv.cluster import Cluster
    from burstenv.cluster.tenants import TenantTable

LOSSES = ("rejected", "failed", "preempted", "late_first_token", "slow_tokens")  # cause of a lost request
FAILURES = ("upstream", "organic", "injected")  # cause of a failed request
MODEL_GROUPS = tuple(f"model_{name.lower().replace('-', '')}" for name in MODELS)
TENANT_PREFIX = "tenant_"  # before a tenant's name in the name of its group
PROMPT_EDGES_TOKENS = (200, 600, 1200, 2000, 3000)  # a bucket holds lower < prompt tokens <= upper
PROMPT_BUCKETS = ("0_200", "200_600", "600_1200", "1200_2000", "2000_3000", "over_3000")
LATENCIES = ("ttft_s", "tpot_s", "e2e_s")
_PERCENTILES = (50, 90, 99)


def groups(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the groups that metrics have separate counts of: classes, tenants, models, prompt lengths."""
    return tuple(key.removesuffix("_offered") for key in row if key.endswith("_offered"))


def group_title(group: str) -> str:
    """Return what a group of requests is called in a report."""
    if group in MODEL_GROUPS:
        return MODELS[MODEL_GROUPS.index(group)]
    if group.removeprefix("prompt_") in PROMPT_BUCKETS:
        low, _, high = group.removeprefix("prompt_").partition("_")
        return f">{high}" if low == "over" else f"{low}-{high}"
    return group.replace(TENANT_PREFIX, "tenant ", 1) if group.startswith(TENANT_PREFIX) else group


@checked(prompt_tokens=array(kinds="iuf"))
def prompt_bucket(prompt_tokens: NDArray[Any]) -> NDArray[np.intp]:
    """Return the index into ``PROMPT_BUCKETS`` of each prompt length, same shape."""
    return np.searchsorted(PROMPT_EDGES_TOKENS, prompt_tokens, side="left")


def latencies_s(records: NDArray[Any]) -> dict[str, NDArray[np.float64]]:
    """Return TTFT, TPOT and E2E of the finished requests [s].

    TTFT is first token minus arrival, E2E last token minus arrival, and TPOT = (E2E - TTFT) /
    (output tokens - 1) as in DistServe (OSDI'24); a request of one output token has no TPOT.

    Args:
        records: (n,) REQUEST, as ``Cluster.records`` returns them.

    Returns:
        Arrays by name of ``LATENCIES``; ``tpot_s`` may be shorter than the others.
    """
    status = records["status"]
    finished = np.flatnonzero((status == ATTAINED) | (status == LATE))
    # Column by column: a copy of the whole records would double the memory of a replay of all of BurstGPT.
    arrival_s = records["arrival_s"][finished]
    ttft_s = records["first_token_s"][finished] - arrival_s
    e2e_s = records["finish_s"][finished] - arrival_s
    gaps = records["target_tokens"][finished] - 1
    several = gaps > 0
    return {"ttft_s": ttft_s, "tpot_s": (e2e_s - ttft_s)[several] / gaps[several], "e2e_s": e2e_s}


def metrics_of(
    cluster: Cluster,
    i: int,
    records: NDArray[Any],
    duration_s: float,
    episode_return: float | None = None,
    model: NDArray[Any] | None = None,
) -> dict[str, float | int | None]:
    """Return :func:`episode_metrics` of the finished episode of cluster ``i``, with all that it counts."""
    return episode_metrics(
        records, duration_s, cluster.kv_use(i), episode_return, model,
        cluster.client_counts(i), cluster.fault_counts(i), cluster.transfer_counts(i), cluster.class_names,
        cluster.tenants, cluster.tenant_of(i), cluster.background_counts(i),
        0.0 if cluster.scaling is None else cluster.scaling.price_per_gpu_h,
    )  # fmt: skip


@checked(
    records=array(REQUEST, dimensions=1),
    duration_s=number(least=0.0),
    kv_use=optional(each(number(), least=2)),
    model=optional(array(kinds="iu", dimensions=1)),
    client_counts=optional(holding(*CLIENT_COUNTS)),
    fault_counts=optional(holding(*FAULT_COUNTS)),
    transfer_counts=optional(holding(*TRANSFER_COUNTS)),
    background_counts=optional(holding(*BACKGROUND_COUNTS)),
    price_per_gpu_h=number(least=0.0),
)
def episode_metrics(
    records: NDArray[Any],
    duration_s: float,
    kv_use: tuple[float, float] | None = None,
    episode_return: float | None = None,
    model: NDArray[Any] | None = None,
    client_counts: Mapping[str, int] | None = None,
    fault_counts: Mapping[str, float] | None = None,
    transfer_counts: Mapping[str, float] | None = None,
    class_names: Sequence[str] = CLASSES,
    tenants: TenantTable | None = None,
    tenant: NDArray[Any] | None = None,
    background_counts: Mapping[str, float | None] | None = None,
    price_per_gpu_h: float = 0.0,
) -> dict[str, float | int | None]:
    """Return the metrics of a finished episode; None for undefined ones (no such request).

    ==================================  =================================================================
    ``offered`` ... ``failed``          counts of requests by outcome; offered is their sum; late includes the
                                        abandoned, rejected are the final rejections, failed includes the cut
    ``length_capped``                   requests whose answer was cut at the model length of their replica: they
                                        count as failed, are never attained and are in no latency
    ``failed_upstream`` ...             failed requests, apart from cut answers, by what failed them, ``FAILURES``
    ``score``                           worth of the attained requests / worth of the offered ones: the headline
    ``attainment``                      attained / offered
    ``token_weighted_attainment``       the same, each request counted with its prompt + output tokens
    ``goodput_per_s``                   attained / ``answering_s``
    ``answering_s``                     from the first arrival to the last answer [s], as ``vllm bench serve`` counts
    ``finished_per_s``                  finished requests, attained or late, / ``answering_s``
    ``prompt_tokens_per_s`` ...         of all answers, cut ones included; also ``generated_`` and
                                        ``total_tokens_per_s``
    ``cached_tokens``                   prompt tokens found in prefix caches when requests were first scheduled
    ``prefix_hit_rate``                 cached tokens / prompt tokens of the requests that were scheduled
    ``<group>_offered`` ...             the same counts and share by class, tenant, model and prompt bucket (``groups``)
    ``<group>_longest_wait_s``          of each class and tenant, from arrival to first scheduling, or to its end
    ``service_gap``, ``jain_index``     with tenants: see ``fairness.service_gap``, and Jain's index of their scores
    ``lost_<why>``                      lost requests by ``LOSSES``, see ``losses``
    ``burstiness``                      variance / mean of the arrivals in each second (1 for Poisson)
    ``ttft_s_mean``, ``_p50`` ...       latencies over finished requests, see ``latencies_s``
    ``rejection_share``                 rejected / offered
    ``preemptions_per_finished``        preemptions / finished requests
    ``max_replica_share``               share of the finished requests served by the busiest replica
    ``kv_use_mean``, ``kv_use_max``     share of the cluster's KV blocks in use, over time
    ``episode_return``                  undiscounted ``worth`` reward: the worth of the attained requests, and of the
                                        tokens trained
    ``offered_worth``                   of the offered requests: their number, except where clients end sessions early
    ``attempts`` ... ``unsent``         where clients act: see ``Cluster.client_counts``; every request is counted
                                        once in all of the above, however often it was sent; unsent ones nowhere
    ``faults`` ... ``boots``            where replicas fail or are scaled: see ``Cluster.fault_counts``
    ``migrations`` ... ``stayed``       where KV blocks move: see ``Cluster.transfer_counts``
    ``background_tokens`` ...           where replicas fine-tune in the slack: see ``Cluster.background_counts``
    ``net``                             likewise: worth of the attained requests and of these tokens, less the price
                                        of the GPU-hours where replicas scale / offered worth
    ==================================  =================================================================

    An episode under an ensemble that falls back to rules also has ``fallback_share``, the share of its decisions that
    the rules made.

    Args:
        records: (n,) REQUEST, all of them settled.
        duration_s: Length of the arrivals' window [s].
        kv_use: Mean and greatest share of KV blocks in use, as ``Cluster.kv_use`` returns them.
        episode_return: Return of an agent's environment; must equal the worth of the attained requests.
        model: Codes into ``MODELS``, (n,); None: all ``other``.
        client_counts: The result of ``Cluster.client_counts``; None: clients that only send and wait.
        fault_counts: The result of ``Cluster.fault_counts``; None: replicas serve for ever.
        transfer_counts: The result of ``Cluster.transfer_counts``; None: KV blocks stay where they are.
        class_names: Of the classes, by code.
        tenants: The tenants that requests may belong to; None: they have none.
        tenant: The number of each request's tenant, (n,).
        background_counts: The result of ``Cluster.background_counts``; None: replicas have no fine-tuning job.
        price_per_gpu_h: What a GPU-hour costs in ``net`` where replicas scale; 1 is a mean request.

    Raises:
        BurstenvError: If a request is not settled, or the rewards contradict the records.
    """
    if tenant is not None and tenants is None:
        raise BurstenvError("tenant must be None without tenants: their names say what its numbers mean")
    if client_counts is not None and client_counts["unsent"]:
        sent = records["status"] != UNSENT
        records, model = records[sent], None if model is None else model[sent]
        tenant = None if tenant is None else tenant[sent]
    status = records["status"]
    attained = status == ATTAINED
    abandoned = int((status == ABANDONED).sum())
    capped = int((status == LENGTH_CAPPED).sum())
    counts = {
        "offered": len(records),
        "attained": int(attained.sum()),
        "late": int((status == LATE).sum()) + abandoned,
        "rejected": int((status == REJECTED).sum()),
        "failed": int(((status == FAILED) | (status == FAULTED)).sum()) + capped,
    }
    unsettled = 2 * counts["offered"] - sum(counts.values())
    if unsettled:
        raise BurstenvError(f"the episode is not over: {unsettled} of {counts['offered']} requests not settled")
    attained_worth, offered_worth = worth_of(records, attained), worth_of(records)
    paid_worth = attained_worth + float((background_counts or {}).get("background_worth") or 0.0)
    if episode_return is not None and episode_return != paid_worth:
        raise BurstenvError(
            f"the environment paid {episode_return!r} over the episode, the attained requests of its records are worth "
            f"{paid_worth!r}; these must be equal"
        )
    tokens = records["prompt_tokens"] + records["output_tokens"]
    finished = counts["attained"] + counts["late"] - abandoned
    served_by = records["replica"][attained | (status == LATE)]
    metrics: dict[str, float | int | None] = {
        **counts,
        "length_capped": capped,
        **{f"failed_{why}": count for why, count in failures(records).items()},
        "score": share(attained_worth, offered_worth),
        "attainment": share(counts["attained"], counts["offered"]),
        "token_weighted_attainment": share(int(tokens[attained].sum(dtype=np.int64)), int(tokens.sum(dtype=np.int64))),
        **_served(records, counts["attained"]),
        "rejection_share": share(counts["rejected"], counts["offered"]),
        "preemptions_per_finished": share(int(records["preemptions"].sum()), finished),
        "max_replica_share": share(int(np.bincount(served_by).max()), finished) if finished else None,
        "episode_return": paid_worth,
        "offered_worth": offered_worth,
    }
    if kv_use is not None:
        metrics["kv_use_mean"], metrics["kv_use_max"] = kv_use
    metrics.update({f"lost_{why}": count for why, count in losses(records).items()})
    metrics["burstiness"] = burstiness(records["arrival_s"], duration_s)
    for counted in (client_counts, fault_counts, transfer_counts, background_counts):
        metrics.update(counted or {})
    if background_counts is not None:
        cost = price_per_gpu_h * (fault_counts or {}).get("gpu_s", 0.0) / 3600.0
        metrics["net"] = share(paid_worth - cost, offered_worth)
    metrics.update(_by_group(records, attained, model, class_names, tenants, tenant))
    for name, values in latencies_s(records).items():
        metrics[f"{name}_mean"] = float(values.mean()) if len(values) else None
        points = np.percentile(values, _PERCENTILES).tolist() if len(values) else [None] * len(_PERCENTILES)
        metrics.update({f"{name}_p{p}": point for p, point in zip(_PERCENTILES, points, strict=True)})
    return metrics


def failures(records: NDArray[Any]) -> dict[str, int]:
    """Return the number of failed requests, apart from cut answers, by ``FAILURES``.

    ``upstream``: the trace's service did not answer, the request never came to a replica. ``injected``: a fault ended
    it. ``organic``: no replica could serve it.
    """
    failed, sent = records["status"] == FAILED, records["replica"] >= 0
    counts = failed & ~sent, failed & sent, records["status"] == FAULTED
    return {why: int(np.count_nonzero(mask)) for why, mask in zip(FAILURES, counts, strict=True)}


def _served(records: NDArray[Any], attained: int) -> dict[str, float | int | None]:
    """Return the rates of answers and their tokens, and the prefix-cache hits."""
    status = records["status"]
    finished = int(np.count_nonzero((status == ATTAINED) | (status == LATE)))
    answered = np.flatnonzero(np.isin(status, (ATTAINED, LATE, LENGTH_CAPPED)))
    first_s = float(records["arrival_s"].min()) if len(records) else 0.0
    answering_s = float(records["finish_s"][answered].max()) - first_s if len(answered) else 0.0
    prompt = int(records["prompt_tokens"][answered].sum(dtype=np.int64))
    generated = int(records["target_tokens"][answered].sum(dtype=np.int64))
    scheduled = records["cached_tokens"] >= 0
    cached = int(records["cached_tokens"][scheduled].sum(dtype=np.int64))
    return {
        "goodput_per_s": rate_per_s(attained, answering_s),
        "answering_s": answering_s,
        "finished_per_s": rate_per_s(finished, answering_s),
        "prompt_tokens_per_s": rate_per_s(prompt, answering_s),
        "generated_tokens_per_s": rate_per_s(generated, answering_s),
        "total_tokens_per_s": rate_per_s(prompt + generated, answering_s),
        "cached_tokens": cached,
        "prefix_hit_rate": share(cached, int(records["prompt_tokens"][scheduled].sum(dtype=np.int64))),
    }


def worth_of(records: NDArray[Any], chosen: NDArray[np.bool_] | None = None) -> float:
    """Return the worth of records, (n,) REQUEST, or of those ``chosen``, (n,) bool; exact in any order."""
    worth = records["worth"] if chosen is None else records["worth"][chosen]
    return float(worth.sum(dtype=np.float64))


def losses(records: NDArray[Any]) -> dict[str, int]:
    """Return the number of lost requests, each counted once, by the first matching one of ``LOSSES``.

    A late request that was preempted counts as ``preempted``; of the others, ``late_first_token`` missed its TTFT
    objective, or was given up before its first token, and ``slow_tokens`` missed only its TPOT objective.
    """
    status = records["status"]
    abandoned = status == ABANDONED
    late = (status == LATE) | abandoned
    preempted = late & (records["preemptions"] > 0)
    with np.errstate(invalid="ignore"):
        late_first = records["first_token_s"] - records["arrival_s"] > records["ttft_slo_s"].astype(np.float64)
    first = late & ~preempted & (late_first | abandoned)
    counts = (
        status == REJECTED,
        ~((status == REJECTED) | (status == ATTAINED) | late),
        preempted,
        first,
        late & ~preempted & ~first,
    )
    return {why: int(np.count_nonzero(mask)) for why, mask in zip(LOSSES, counts, strict=True)}


def burstiness(arrival_s: NDArray[Any], duration_s: float) -> float | None:
    """Return the index of dispersion of the arrivals in seconds of an episode (Fano factor); None without arrivals.

    Variance over mean of the counts in each whole second of the window; 1 for a Poisson process.
    """
    seconds = max(1, int(np.ceil(duration_s)))
    counts = np.bincount(np.clip(arrival_s.astype(np.int64), 0, seconds - 1), minlength=seconds)
    return float(counts.var() / counts.mean()) if len(arrival_s) else None


def _by_group(
    records: NDArray[Any],
    attained: NDArray[np.bool_],
    model: NDArray[Any] | None,
    class_names: Sequence[str],
    tenants: TenantTable | None,
    tenant: NDArray[Any] | None,
) -> dict[str, float | int | None]:
    """Count offered and attained requests by class, tenant, model and prompt bucket, and say how fair it was."""
    bucket = prompt_bucket(records["prompt_tokens"])
    if model is None:
        model = np.full(len(records), len(MODELS) - 1)
    codes: list[tuple[Sequence[str], NDArray[Any]]] = [(class_names, records["class_code"])]
    if tenants is not None and tenant is not None:
        codes.append(([TENANT_PREFIX + name for name in tenants.names], tenant))
    waits = {
        f"{name}_longest_wait_s": wait
        for names, code in codes
        for name, wait in zip(names, longest_waits_s(records, code, len(names)), strict=True)
    }
    codes += [(MODEL_GROUPS, model), ([f"prompt_{b}" for b in PROMPT_BUCKETS], bucket)]
    found: dict[str, float | int | None] = {}
    for names, code in codes:
        offered_of = np.bincount(code, minlength=len(names))
        attained_of = np.bincount(code[attained], minlength=len(names))
        for name, offered, met in zip(names, offered_of.tolist(), attained_of.tolist(), strict=True):
            found[f"{name}_offered"] = offered
            found[f"{name}_attained"] = met
            found[f"{name}_attainment"] = share(met, offered)
    found.update(waits)
    if tenants is not None and tenant is not None:
        worth, count = records["worth"].astype(np.float64), len(tenants.names)
        offered_of = np.bincount(tenant, worth, minlength=count)
        attained_of = np.bincount(tenant[attained], worth[attained], minlength=count)
        found["service_gap"] = service_gap(records, tenant, tenants.weights)
        found["jain_index"] = jain_index((attained_of / np.maximum(offered_of, 1e-12))[offered_of > 0.0].tolist())
    return found


def share(part: float, whole: float) -> float | None:
    """Return ``part / whole``, or None if the whole is 0."""
    return part / whole if whole else None
