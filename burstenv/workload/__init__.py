"""Traces: reading, generation, splits in time, and episodes."""

from burstenv.workload.conversations import think_times
from burstenv.workload.describe import windowed_cv
from burstenv.workload.episodes.sampler import EpisodeConfig, EpisodeRequests, EpisodeSampler
from burstenv.workload.failures.rates import failure_rates
from burstenv.workload.formats.burstgpt import read_burstgpt
from burstenv.workload.formats.convert import convert
from burstenv.workload.formats.mapped import read_mapped
from burstenv.workload.formats.mooncake import read_mooncake
from burstenv.workload.formats.parquet import read_parquet, write_parquet
from burstenv.workload.formats.plain import read_plain
from burstenv.workload.formats.reader import read_trace
from burstenv.workload.formats.write_csv import write_burstgpt, write_plain
from burstenv.workload.formats.write_mooncake import write_mooncake
from burstenv.workload.generator import GENERATOR_VERSION, generate
from burstenv.workload.generator.config import GeneratorConfig
from burstenv.workload.official.data_directory import cache_folder, data_directory
from burstenv.workload.official.files import OFFICIAL, OfficialFile
from burstenv.workload.shaping.mixing import mix
from burstenv.workload.shaping.rates import scale_to_rate
from burstenv.workload.shaping.scaling import compress, superpose, thin
from burstenv.workload.shaping.selection import SelectConfig, select
from burstenv.workload.splits import SPLITS, DayRange, split_by_days, split_for_episodes
from burstenv.workload.trace import CLASSES, DAY_S, LOG_TYPES, MODELS, Failures, Trace
from burstenv.workload.workload_config import WorkloadConfig, load_trace, load_workload

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
    "SelectConfig",
    "Trace",
    "WorkloadConfig",
    "cache_folder",
    "compress",
    "convert",
    "data_directory",
    "failure_rates",
    "generate",
    "load_trace",
    "load_workload",
    "mix",
    "read_burstgpt",
    "read_mapped",
    "read_mooncake",
    "read_parquet",
    "read_plain",
    "read_trace",
    "scale_to_rate",
    "select",
    "split_by_days",
    "split_for_episodes",
    "superpose",
    "thin",
    "think_times",
    "windowed_cv",
    "write_burstgpt",
    "write_mooncake",
    "write_parquet",
    "write_plain",
]
