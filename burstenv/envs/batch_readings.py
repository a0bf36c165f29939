"""What a batch of environments says of itself: counts, metrics of a finished episode, and a few lines of text."""

from __future__ import annotations

from typing import Any

import numpy as np

from burstenv.cluster import Cluster
from burstenv.engine.enums import UNSENT
from burstenv.envs.arguments import places_checked
from burstenv.envs.scenario import Scenario


@places_checked
class BatchReadings:
    """The part of :class:`burstenv.envs.batch.EnvironmentBatch` that is read and changes nothing."""

    cluster: Cluster
    scenario: Scenario
    episodes: list[dict[str, Any]]

    @property
    def num_envs(self) -> int:
        """N."""
        return self.cluster.num_envs

    def num_requests(self, i: int) -> int:
        """Return the number of requests in environment ``i``'s episode."""
        return int(self.cluster.state.environments["num_requests"][i])

    def counts(self, i: int) -> dict[str, Any]:
        """Return the outcome counts of environment ``i`` so far.

        The late ones include the abandoned; the failed ones include those with a cut answer (``length_capped``).

        If clients act or replicas fail, those counts are added, see :meth:`burstenv.cluster.Cluster.client_counts` and
        :meth:`burstenv.cluster.Cluster.fault_counts`.
        """
        e = self.cluster.state.environments[i]
        settled = int(e["attained"] + e["late"] + e["rejected"] + e["failed"])
        return {
            "offered": int(e["offered"]),
            "attained": int(e["attained"]),
            "late": int(e["late"]),
            "rejected": int(e["rejected"]),
            "failed": int(e["failed"]),
            "length_capped": int(e["length_capped"]),
            "pending": int(e["offered"]) - settled,
            **(self.cluster.client_counts(i) or {}),
            **(self.cluster.fault_counts(i) or {}),
        }

    def episode_metrics(self, i: int) -> dict[str, Any]:
        """Return the metrics of a finished episode: counts, score, attainment, preemptions, mean KV use."""
        e = self.cluster.state.environments[i]
        counts = self.counts(i)
        requests = self.cluster.state.requests[i, : self.num_requests(i)]
        sent = requests["status"] != UNSENT
        tokens = int((requests["prompt_tokens"] + requests["output_tokens"])[sent].sum(dtype=np.int64))
        return {
            **counts,
            "score": float(e["attained_worth"] / max(1e-9, e["offered_worth"])),
            "attainment": counts["attained"] / max(1, counts["offered"]),
            "token_weighted_attainment": float(e["attained_tokens"] / max(1, tokens)),
            "preemptions": int(self.cluster.state.replicas["preemptions"][i].sum()),
            "kv_use_mean": self.cluster.kv_use(i)[0],
            **(self.cluster.transfer_counts(i) or {}),
            **(self.cluster.background_counts(i) or {}),
            "duration_s": float(e["now_s"]),
            **{k: self.episodes[i][k] for k in ("split", "day", "seed", "load") if k in self.episodes[i]},
        }

    def metrics_age_s(self, i: int) -> float | None:
        """Return the age of the metrics shown in environment ``i`` [s]; None if they are always fresh."""
        e = self.cluster.state.environments[i]
        return float(e["now_s"] - e["shown_s"]) if e["veiled"] else None

    def without_request(self, i: int) -> str:
        """Describe the decision in environment ``i`` without a request at the gateway."""
        return "a tick"

    def in_force(self, i: int) -> str:
        """Describe what the agent of environment ``i`` has set or chosen; empty where that is a request's fate."""
        return ""

    def describe(self, i: int) -> str:
        """Return environment ``i`` as a few lines of text: replicas, KV bars, the request at the gateway."""
        state = self.cluster.state
        e = state.environments[i]
        counts = self.counts(i)
        door = self.without_request(i)
        at_gateway = self.cluster.at_gateway(i)
        if at_gateway >= 0:
            r = state.requests[i, at_gateway]
            kind = self.scenario.config.class_names[int(r["class_code"])]
            door = (
                f"{'API' if kind == 'api' else kind} request {at_gateway}: {int(r['prompt_tokens'])} prompt tokens, "
                f"~{float(r['predicted_tokens']):.0f} output tokens"
            )
        elif e["done"]:
            door = "none, the episode is done"
        lines = [f"t = {float(e['now_s']):8.2f} s   at the gateway: {door}"]
        age_s = self.metrics_age_s(i)
        if age_s is not None:
            lines.append(f"  policies see the replicas as they were {age_s:.2f} s ago")
        for spec, replica in zip(self.scenario.specs, state.replicas[i], strict=True):
            used = 1.0 - float(replica["seen_free_blocks"]) / spec.num_blocks
            bar = "#" * round(20 * used)
            lines.append(
                f"  {spec.name:<28} KV [{bar:<20}] {used:4.0%}   running {int(replica['seen_running']):3d}   "
                f"waiting {int(replica['seen_waiting']):3d}   mode {self.scenario.mode_names[int(replica['mode'])]}"
            )
        lines.append("  " + "   ".join(f"{name} {value}" for name, value in counts.items()))
        return "\n".join(lines)
