"""The rules that decide how many replicas are to serve: their codes, and the places of their parameters."""

from __future__ import annotations

from burstenv._jit.positions import positions

(
    BY_CALLER, STATIC, KPA, APA, RAY_SERVE, LLUMNIX_SCALING, WVA, WVA_TOKENS, DYNAMO_LOAD, SLA_PLANNER, ORACLE,
) = range(11)  # fmt: skip
PARAMETERS: dict[int, tuple[str, ...]] = {
    STATIC: ("replicas",),
    KPA: ("target", "window_s", "panic_window_s", "panic_threshold", "up_rate", "down_rate"),
    APA: ("target", "tolerance", "window_s", "down_s", "up_rate", "down_rate"),
    RAY_SERVE: ("target", "window_s", "up_s", "down_s"),
    LLUMNIX_SCALING: ("low", "high"),
    WVA: ("kv", "queue", "spare_kv", "spare_queue", "down_s"),
    WVA_TOKENS: ("kv", "up", "down"),
    DYNAMO_LOAD: ("prefill_up", "prefill_down", "up", "down"),
    SLA_PLANNER: ("use", "window_s", "trend", "down_s"),
    ORACLE: ("use", "window_s"),
}
NEED_RATE = (SLA_PLANNER, ORACLE)  # of what a replica serves
LONGEST_WINDOW_S = 1_800.0  # of any parameter in seconds that looks back
P_STATIC, P_KPA, P_APA, P_RAY, P_LLUMNIX, P_WVA, P_TOKENS, P_DYNAMO, P_SLA, P_ORACLE = map(
    positions, PARAMETERS.values()
)
