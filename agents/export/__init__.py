"""From a trained agent to plain arrays, an ONNX graph and a model card."""

from burstenv.deprecated import moved_into

__getattr__ = moved_into(__name__, "burstenv.agents.export.arrays")
