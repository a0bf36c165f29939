"""Traces: reading, generating, splitting in time, and cutting episodes out of them."""

from burstenv.workload.burstgpt import read_burstgpt
from burstenv.workload.describe import windowed_cv
from burstenv.workload.episodes import EpisodeConfig, EpisodeRequests, EpisodeSampler
from burstenv.workload.generator import GENERATOR_VERSION, generate
from burstenv.workload.generator.config import GeneratorConfig
from burstenv.workload.reader import read_trace
from burstenv.workload.splits import SPLITS, DayRange, split_by_days
from burstenv.workload.trace import CLASSES, DAY_S, LOG_TYPES, MODELS, Failures, Trace
from burstenv.workload.workload_config import WorkloadConfig, cache_folder, load_trace, load_workload

__all__ = [
    "CLASSES",
    "DAY_S",
    "GENERATOR_VERSION",
    "LOG_TYPES",
    "MODELS",
    "SPLITS",
    "DayRange",
    "EpisodeConfig",
    "EpisodeRequests",
    "EpisodeSampler",
    "Failures",
    "GeneratorConfig",
    "Trace",
    "WorkloadConfig",
    "cache_folder",
    "generate",
    "load_trace",
    "load_workload",
    "read_burstgpt",
    "read_trace",
    "split_by_days",
    "windowed_cv",
]
