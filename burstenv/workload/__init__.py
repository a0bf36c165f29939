"""Traces: reading, generating, splitting in time, and cutting episodes out of them."""

from burstenv.workload.burstgpt import read_burstgpt
from burstenv.workload.episodes import EpisodeConfig, EpisodeRequests, EpisodeSampler
from burstenv.workload.reader import read_trace
from burstenv.workload.splits import SPLITS, DayRange, split_by_days
from burstenv.workload.trace import CLASSES, DAY_S, LOG_TYPES, MODELS, Failures, Trace

__all__ = [
    "CLASSES",
    "DAY_S",
    "LOG_TYPES",
    "MODELS",
    "SPLITS",
    "DayRange",
    "EpisodeConfig",
    "EpisodeRequests",
    "EpisodeSampler",
    "Failures",
    "Trace",
    "read_burstgpt",
    "read_trace",
    "split_by_days",
]
