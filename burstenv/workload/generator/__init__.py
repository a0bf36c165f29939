"""The generator of workloads: classes of requests, their parameters, their fit, and the paper's own model."""

from burstenv.workload.generator.config import GeneratorConfig
from burstenv.workload.generator.generation import GENERATOR_VERSION, generate

__all__ = ["GENERATOR_VERSION", "GeneratorConfig", "generate"]
