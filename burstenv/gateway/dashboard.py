"""The dashboard: one page that shows the gateway live, and the numbers that its script asks for once a second."""

from __future__ import annotations

import math
from importlib import resources
from typing import TYPE_CHECKING, Any

from burstenv.pages.page import render

if TYPE_CHECKING:
    from burstenv.gateway.gateway import Gateway

PACKAGE = "burstenv.gateway"
WINDOW_S = 60.0  # over which recent attainment and rates are taken
SHOWN = 12  # last decisions


def dashboard_page(gateway: Gateway) -> str:
    """Return the page, which loads nothing but ``/dashboard/state``."""
    script = (resources.files(PACKAGE) / "dashboard.js").read_text(encoding="utf-8")
    css = (resources.files(PACKAGE) / "dashboard.css").read_text(encoding="utf-8")
    return render(
        "dashboard.html.j2",
        PACKAGE,
        title="burstenv gateway",
        scenario=gateway.scenario.config.name,
        own_css=css,
        own_script=script,
    )


def dashboard_state(gateway: Gateway) -> dict[str, Any]:
    """Return what the page shows, in plain numbers; None where there is nothing to show yet."""
    now_s = gateway.now_s()
    recent = [row for row in gateway.finished if now_s - row["finish_s"] <= WINDOW_S]
    ends = {name: sum(row["outcome"] == name for row in recent) for name in ("attained", "late", "rejected", "failed")}
    window_s = min(WINDOW_S, max(1.0, now_s))
    if len(recent) == gateway.finished.maxlen:
        window_s = max(1e-3, now_s - recent[0]["finish_s"])
    offered = sum(ends.values())
    return {
        "now_s": round(now_s, 2),
        "policy": gateway.decider.name,
        "counts": dict(gateway.counts),
        "in_flight": len(gateway.flights),
        "deferred": gateway.world.deferred(),
        "rate_per_s": len(recent) / window_s,
        "attainment": ends["attained"] / offered if offered else None,
        "recent": ends,
        "replicas": [_replica(gateway, r) for r in range(len(gateway.backends.all))],
        "last": [_decision(row) for row in list(gateway.finished)[-SHOWN:][::-1]],
    }


def _replica(gateway: Gateway, r: int) -> dict[str, Any]:
    backend, ledger, spec = gateway.backends.all[r], gateway.world.ledgers[r], gateway.scenario.specs[r]
    metrics = ledger.metrics
    return {
        "name": spec.name,
        "url": backend.url,
        "available": backend.available,
        "reason": "" if backend.available else backend.reason,
        "ejections": backend.ejections,
        "waiting": ledger.waiting,
        "running": ledger.in_flight - ledger.waiting,
        "kv_used": metrics.kv_used if math.isfinite(metrics.read_s) else None,
        "context_tokens": ledger.context_tokens,
        "sent": ledger.sent,
        "ttft_s": ledger.ttft.latest,
        "tpot_s": ledger.tpot.latest,
    }


def _decision(row: dict[str, Any]) -> dict[str, Any]:
    begun = row["first_token_s"]
    return {
        "arrival_s": row["arrival_s"],
        "class": row["class"],
        "prompt_tokens": row["prompt_tokens"],
        "output_tokens": row["output_tokens"],
        "replica": row["replica"],
        "outcome": row["outcome"],
        "ttft_s": None if begun is None else begun - row["arrival_s"],
    }
