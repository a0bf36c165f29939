"""How many replicas a service needs: the smallest size that reaches the share, and one more where one is lost."""

from __future__ import annotations

import copy
import json

import pytest

from burstenv.cli.main import main
from burstenv.config import read_yaml, shipped
from burstenv.envs.scenario import load_scenario
from burstenv.errors import BurstenvError
from burstenv.evaluation.fleet_plan import plan_fleet

RATE_PER_S = 5.0
POLICY = "always/jsq/vllm"


@pytest.fixture(scope="module")
def values():
    """Small replicas of one kind, episodes of 20 s."""
    values = copy.deepcopy(read_yaml(shipped("scenarios")["fragmentation"]))
    values["migration"] = None
    values["episode"]["duration_s"] = 20
    values["capacity_per_s"] = dict.fromkeys(("train", "validation", "test"), 4.0)
    return values


@pytest.fixture(scope="module")
def plans(values):
    scenario = load_scenario(values)
    return [plan_fleet(scenario, POLICY, RATE_PER_S, 0.9, lost, episodes=9)[0] for lost in (0, 2)]


def test_the_answer_is_the_smallest_size_that_reaches_the_share(plans):
    for plan in plans:
        by_size = {size.replicas: size.attainment for size in plan.sizes}
        assert by_size[plan.replicas].mean >= 0.9
        assert by_size[plan.replicas - 1].mean < 0.9
        assert plan.replicas + 1 in by_size
        assert all(share.low <= share.mean <= share.high for share in by_size.values())
        assert all(size.gpu_h_per_day == 24 * size.gpus for size in plan.sizes)


def test_more_replicas_attain_more_and_lost_ones_cost_some(plans):
    whole, lost = plans
    shares = [size.attainment.mean for size in whole.sizes]
    assert shares == sorted(shares)
    assert lost.replicas > whole.replicas


def test_each_kind_of_replica_has_its_own_answer(values):
    mixed = values | {"cluster": "mixed-x2"}
    mixed["slo"] = {name: {"ttft_base_s": 5.0, "tpot_s": 0.5} for name in ("conversation", "api")}
    found = plan_fleet(load_scenario(mixed), POLICY, 3.0, 0.5, episodes=2, most=4)
    assert len(found) == 2
    assert len({plan.kind for plan in found}) == 2


def test_a_fleet_that_is_too_small_says_so(values):
    plan = plan_fleet(load_scenario(values), POLICY, 40.0, 0.9, episodes=2, most=2)[0]
    assert plan.replicas is plan.surely is None
    assert [size.replicas for size in plan.sizes] == [1, 2]
    with pytest.raises(BurstenvError, match="share must be"):
        plan_fleet(load_scenario(values), POLICY, 40.0, 1.5)


def test_the_command_prints_and_draws_it(values, tmp_path, capsys):
    path = tmp_path / "small.yaml"
    path.write_text(json.dumps(values))
    page = tmp_path / "fleet.html"
    options = ["--rate-per-s", "5", "--episodes", "2", "--share", "0.8", "--out", str(page)]
    assert main(["plan", "--scenario", str(path), *options]) == 0
    printed = capsys.readouterr().out
    assert "replicas reach 80.0 % attainment at 5 requests/s under always/jsq/vllm" in printed
    assert "How many replicas" in page.read_text()
    assert main(["plan", "--scenario", str(path), "--load", "1", "--rate-per-s", "5"]) == 1
    assert "give one of --rate-per-s and --load" in capsys.readouterr().err
