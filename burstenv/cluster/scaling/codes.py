"""The rules that decide how many replicas are to serve: their codes, and the places of their parameters."""

from __future__ import annotations

from burstenv._jit.positions import positions

(
    BY_CALLER, STATIC, KPA, APA, RAY_SERVE, LLUMNIX_SCALING, WVA, WVA_TOKENS, DYNAMO_LOAD, SLA_PLANNER, ORACLE,
    STAFFING,
) = range(12)  # fmt: skip
PARAMETERS: dict[int, tuple[str, ...]] = {
    STATIC: ("replicas",),
    KPA: ("target", "window_s", "panic_window_s", "panic_threshold", "up_rate", "down_rate"),
    APA: ("target", "tolerance", "window_s", "down_s", "up_rate", "down_rate"),
    RAY_SERVE: ("target", "window_s", "up_s", "down_s"),
    LLUMNIX_SCALING: ("low", "high"),
    WVA: ("kv", "queue", "spare_kv", "spare_queue", "down_s"),
    WVA_TOKENS: ("kv", "up", "down"),
    DYNAMO_LOAD: ("prefill_up", "prefill_down", "up", "down"),
    SLA_PLANNER: ("use", "window_s", "forecast", "ahead", "down_s"),
    ORACLE: ("use", "window_s"),
    STAFFING: ("target", "margin", "window_s", "forecast", "rate_window_s", "ahead", "down_s"),
}
NEED_RATE = (SLA_PLANNER, ORACLE)  # of what a replica serves
LONGEST_WINDOW_S = 1_800.0  # of any parameter in seconds that looks back
P_STATIC, P_KPA, P_APA, P_RAY, P_LLUMNIX, P_WVA, P_TOKENS, P_DYNAMO, P_SLA, P_ORACLE, P_STAFFING = map(
    positions, PARAMETERS.values()
)

# How the rate of requests is forecast, see cluster/scaling/forecast.py.
FORECASTS = ("constant", "linear", "kalman", "arima")
CONSTANT, LINEAR, KALMAN, ARIMA = range(len(FORECASTS))
MOST_BUCKETS = 64  # windows that a forecast looks back
# Variances of the requests of a window, and fewest windows, of the Kalman filter of Dynamo's planner: kalman_q_level,
# kalman_q_trend, kalman_r and kalman_min_points in its defaults.
LEVEL_NOISE, TREND_NOISE, KALMAN_NOISE, KALMAN_LEAST = 1.0, 0.1, 10.0, 5
ARIMA_LEAST = 8  # windows: six changes follow two others
MOST_GROWTH = 4.0  # of the requests in flight, by a forecast
