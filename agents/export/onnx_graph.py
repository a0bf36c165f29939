"""A policy network as an ONNX graph: logits for a batch of observations, for runtimes other than this package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from burstenv.agents.agent import LearnedAgent
from burstenv.agents.networks import logits
from burstenv.errors import BurstenvError
from burstenv.files import write_atomic
from burstenv.policies.network.weights import Network


class _Actor(nn.Module):
    """The actor of a policy."""

    def __init__(self, policy: Any):
        super().__init__()
        self.policy = policy

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return logits(self.policy, observations)


def write_onnx(agent: LearnedAgent, network: Network, out: Path) -> None:
    """Write ``observations``, (N, O) float32, to ``logits``, (N, A), N free, for the cluster it was trained on.

    The model's metadata describes the numbers, under ``burstenv``, as JSON.

    Raises:
        BurstenvError: When the extra is missing.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  torch's exporter is made of it
    except ModuleNotFoundError as error:
        raise BurstenvError(
            f"an .onnx file needs the onnx extra ({error.name} is missing): pip install 'burstenv[onnx]'"
        ) from None
    size = agent.policy.observation_space.shape[0]
    program = torch.onnx.export(
        _Actor(agent.policy).eval(),
        (torch.zeros(2, size),),
        input_names=["observations"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    entry = model.metadata_props.add()
    entry.key, entry.value = "burstenv", json.dumps(dict(network.description))
    onnx.checker.check_model(model)
    write_atomic(out, model.SerializeToString())
