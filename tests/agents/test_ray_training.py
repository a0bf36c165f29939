"""Evolution on a Ray cluster: the weights of one machine."""

from __future__ import annotations

import numpy as np
import pytest

from burstenv.agents.agent import load_agent
from burstenv.agents.networks import acting_weights
from burstenv.agents.train import train
from burstenv.errors import BurstenvError
from tests.agents.conftest import evolution_in


def test_the_weights_do_not_depend_on_where_the_episodes_are_played(scenario, further, tmp_path):
    """Two scenarios, at a price for groups, so that baselines play on the cluster, too; then the run goes on."""
    ray = pytest.importorskip("ray")
    config = evolution_in([further["two"]], group_price=0.5)
    here = train(config, scenario, tmp_path / "here", progress=False)
    try:
        begun = config.model_copy(update={"total_steps": 1})
        train(begun, scenario, tmp_path / "there", progress=False, ray="local")
        there = train(config, scenario, tmp_path / "there", progress=False, resume=True, ray="local")
    finally:
        ray.shutdown()
    ours, theirs = (acting_weights(load_agent(result.folder / "last.zip", scenario).policy) for result in (here, there))
    for name, values in ours.items():
        np.testing.assert_array_equal(values, theirs[name])
    for key in ("steps", "validation", "ahead_points", "elsewhere"):
        assert here.log[-1][key] == there.log[-1][key]


def test_algorithms_that_learn_on_one_machine_take_no_cluster(recipe, scenario, tmp_path):
    with pytest.raises(BurstenvError, match="ray plays the episodes of evolution; ppo learns on one machine"):
        train(recipe, scenario, tmp_path / "run", progress=False, ray="local")
