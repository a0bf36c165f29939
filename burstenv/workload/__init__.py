"""Traces: reading, generating, splitting in time, and cutting episodes out of them."""

from burstenv.workload.burstgpt import read_burstgpt
from burstenv.workload.data_directory import cache_folder, data_directory
from burstenv.workload.describe import windowed_cv
from burstenv.workload.episodes import EpisodeConfig, EpisodeRequests, EpisodeSampler
from burstenv.workload.generator import GENERATOR_VERSION, generate
from burstenv.workload.generator.config import GeneratorConfig
from burstenv.workload.mapped import read_mapped
from burstenv.workload.mooncake import read_mooncake
from burstenv.workload.official import OFFICIAL, OfficialFile
from burstenv.workload.parquet import read_parquet, write_parquet
from burstenv.workload.plain import read_plain
from burstenv.workload.reader import read_trace
from burstenv.workload.splits import SPLITS, DayRange, split_by_days
from burstenv.workload.trace import CLASSES, DAY_S, LOG_TYPES, MODELS, Failures, Trace
from burstenv.workload.workload_config import WorkloadConfig, load_trace, load_workload
from burstenv.workload.write_csv import write_burstgpt, write_plain
from burstenv.workload.write_mooncake import write_mooncake

__all__ = [
    "CLASSES",
    "DAY_S",
    "GENERATOR_VERSION",
    "LOG_TYPES",
    "MODELS",
    "OFFICIAL",
    "SPLITS",
    "DayRange",
    "EpisodeConfig",
    "EpisodeRequests",
    "EpisodeSampler",
    "Failures",
    "GeneratorConfig",
    "OfficialFile",
    "Trace",
    "WorkloadConfig",
    "cache_folder",
    "data_directory",
    "generate",
    "load_trace",
    "load_workload",
    "read_burstgpt",
    "read_mapped",
    "read_mooncake",
    "read_parquet",
    "read_plain",
    "read_trace",
    "split_by_days",
    "windowed_cv",
    "write_burstgpt",
    "write_mooncake",
    "write_parquet",
    "write_plain",
]
