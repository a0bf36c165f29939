"""Evaluations spread over processes and killed at random moments give the same bytes as undisturbed ones."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from burstenv.config import read_yaml, shipped
from burstenv.errors import BurstenvError
from burstenv.evaluation import EvaluationPlan, evaluate, finished
from burstenv.evaluation.journal import JOURNAL, Journal
from burstenv.evaluation.statistics.latency_sketch import RELATIVE_ERROR, Sketch

from .conftest import POLICIES, FixedReplica, ShortestQueue

COMMAND = """
import sys
from pathlib import Path
from burstenv.envs.scenario import load_scenario
from burstenv.evaluation import EvaluationPlan, evaluate
folder = Path(sys.argv[2])
plan = EvaluationPlan(
    scenario=sys.argv[1], loads=(1.0, 1.5), episodes=40,
    policies=["always/jsq/edf-512", "size-aware-kv/lmetric/edf-512", "always/random/vllm"], command="test",
)
evaluate(plan, progress=False, workers=int(sys.argv[3]), folder=folder).to_json(folder / "result.json")
"""
UNITS = 2 * 40 * 4  # with the reference
LIMIT_S = 1_200.0  # of a process that hangs; one that compiles on a busy machine takes minutes


@pytest.fixture(scope="module")
def scenario_file(tmp_path_factory) -> Path:
    values = read_yaml(shipped("scenarios")["blind"])
    values["episode"]["duration_s"] = 60
    values["capacity_per_s"] = {"train": 16.0, "validation": 16.0, "test": 16.0}
    path = tmp_path_factory.mktemp("scenario") / "short.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def start(scenario_file: Path, folder: Path, workers: int) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, "-c", COMMAND, str(scenario_file), str(folder), str(workers)]
    return subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def units_in(journal: Path) -> list[tuple[str, float, int]]:
    found = []
    for line in journal.read_bytes().splitlines()[1:]:
        found += [(u["policy"], u["load"], u["seed"]) for u in json.loads(line[9:])["units"]]
    return found


def test_killed_at_random_moments_the_result_is_the_same_byte_for_byte(scenario_file, tmp_path):
    assert start(scenario_file, tmp_path / "whole", 1).wait(LIMIT_S) == 0
    whole = (tmp_path / "whole" / "result.json").read_bytes()
    folder = tmp_path / "killed"
    journal = folder / JOURNAL
    rng = random.Random(0)  # how far the process is by then differs in every run
    kills = 0
    while kills < 3:
        process = start(scenario_file, folder, 1 + kills % 2)
        before = journal.stat().st_size if journal.exists() else 0
        while process.poll() is None and (not journal.exists() or journal.stat().st_size <= before):
            time.sleep(0.002)  # until it has done something new
        time.sleep(rng.uniform(0.0, 0.08))
        if process.poll() is not None:
            break  # it was too fast: nothing was left to kill
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
    assert kills
    if kills < 3 or (folder / "result.json").exists():
        (folder / "result.json").unlink(missing_ok=True)
    else:
        with journal.open("ab") as stream:  # and what a power cut may leave
            stream.write(b'00000000 {"units":[{"pol')
    assert start(scenario_file, folder, 2).wait(LIMIT_S) == 0
    assert (folder / "result.json").read_bytes() == whole
    done = units_in(journal)
    assert len(done) == len(set(done)) == UNITS  # no episode lost, none repeated


@pytest.mark.parametrize("workers", [2, 3])
def test_the_numbers_do_not_depend_on_the_number_of_workers(small, small_plan, scenario, workers):
    again = evaluate(small_plan, agents=[ShortestQueue(scenario), FixedReplica()], progress=False, workers=workers)
    assert again.to_json() == small.to_json()


def test_a_journal_of_another_plan_is_refused_in_one_sentence(scenario, tmp_path):
    plan = EvaluationPlan(scenario=scenario, episodes=2, policies=POLICIES[:1])
    evaluate(plan, progress=False, folder=tmp_path)
    for change, what in (({"episodes": 3}, "seeds"), ({"loads": (1.0,)}, "loads"), ({"policies": ()}, "policies")):
        with pytest.raises(BurstenvError, match=f"interrupted evaluation with another plan .*different: .*{what}"):
            evaluate(replace(plan, **change), progress=False, folder=tmp_path)
    finished(tmp_path)
    assert list(tmp_path.iterdir()) == []
    evaluate(replace(plan, episodes=1), progress=False, folder=tmp_path)


def test_finished_episodes_are_not_run_again(scenario, tmp_path):
    plan = EvaluationPlan(scenario=scenario, episodes=3)
    first = FixedReplica()
    evaluate(plan, agents=[first], progress=False, folder=tmp_path)
    again = FixedReplica()
    result = evaluate(plan, agents=[again], progress=False, folder=tmp_path)
    assert len(first.seen) > 0 == len(again.seen)
    assert result.manifest["resumed_episodes"] == 3 * len(result.policies)


def test_a_damaged_line_costs_only_what_follows_it(tmp_path):
    path = tmp_path / JOURNAL
    with Journal(path, {"a": 1}) as journal:
        for seed in range(4):
            journal.append([{"policy": "p", "load": 1.0, "seed": seed}])
    lines = path.read_bytes().splitlines(keepends=True)
    lines[3] = lines[3].replace(b'"seed":2', b'"seed":7')
    path.write_bytes(b"".join(lines))
    with Journal(path, {"a": 1}) as journal:
        assert sorted(seed for _, _, seed in journal.units) == [0, 1]
    assert path.read_bytes() == b"".join(lines[:3])
    path.write_text("something else\n")
    with pytest.raises(BurstenvError, match="is no journal of burstenv evaluate"):
        Journal(path, {"a": 1})


def test_a_failing_worker_says_what_failed(scenario):
    plan = EvaluationPlan(scenario=scenario, episodes=2)

    class Wrong(FixedReplica):
        def act(self, observations, masks):
            return np.zeros(3)

    with pytest.raises(BurstenvError, match="agent 'fixed': its action must be whole numbers"):
        evaluate(plan, agents=[Wrong()], progress=False, workers=2)


def test_ray_gives_the_same_numbers(small, small_plan, scenario):
    ray = pytest.importorskip("ray")
    again = evaluate(small_plan, agents=[ShortestQueue(scenario), FixedReplica()], progress=False, ray="local")
    ray.shutdown()
    assert again.to_json() == small.to_json()


def test_sketches_add_up_and_keep_their_promise():
    rng = np.random.default_rng(0)
    values = rng.lognormal(0.0, 2.0, 5000)
    whole = Sketch.of(values)
    parts = [Sketch.from_list(json.loads(json.dumps(Sketch.of(part).to_list()))) for part in np.split(values, 5)]
    for order in (parts, parts[::-1]):
        added = Sketch.sum([*order, Sketch()])
        assert added.quantiles([0.0, 0.5, 0.99, 1.0]) == whole.quantiles([0.0, 0.5, 0.99, 1.0])
        assert added.count == 5000
        assert added.mean == pytest.approx(values.mean(), rel=1e-12)
    levels = [0.01, 0.5, 0.9, 0.99, 0.999]
    exact = np.quantile(values, levels, method="lower")
    np.testing.assert_allclose(whole.quantiles(levels), exact, rtol=1.01 * RELATIVE_ERROR)
    assert Sketch.sum([]).quantiles([0.5]) == []
    assert Sketch().mean is None


def test_a_second_evaluation_in_one_folder_is_refused(tmp_path):
    with (
        Journal(tmp_path / JOURNAL, {"a": 1}),
        pytest.raises(BurstenvError, match="another evaluation is using this folder"),
    ):
        Journal(tmp_path / JOURNAL, {"a": 1})
    Journal(tmp_path / JOURNAL, {"a": 1}).close()


@pytest.mark.parametrize(
    "values", [{"units": 1}, {"units": [1]}, {"units": [{"policy": 1}]}, {}, {"units": [{"policy": "a", "load": 1.0}]}]
)
def test_a_journal_of_a_stranger_is_one_sentence(values, tmp_path):
    with Journal(tmp_path / JOURNAL, {"a": 1}):
        pass
    text = json.dumps(values).encode()
    with (tmp_path / JOURNAL).open("ab") as stream:
        stream.write(b"%08x %s\n" % (zlib.crc32(text), text))
    with pytest.raises(BurstenvError, match="line 2 holds no finished episodes"):
        Journal(tmp_path / JOURNAL, {"a": 1})


def test_a_full_disk_keeps_the_journal_sound(tmp_path):
    unit = {"policy": "a", "load": 1.0, "seed": 0, "x": "y" * 3_000}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with Journal(tmp_path / JOURNAL, {"a": 1}) as journal:
        journal.append([unit])
        resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, hard))  # writes beyond it fail, as on a full disk
        try:
            with pytest.raises(BurstenvError, match="finished episodes are kept"):
                journal.append([{**unit, "seed": 1}])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, before)
        journal.append([{**unit, "seed": 2}])
    with Journal(tmp_path / JOURNAL, {"a": 1}) as journal:
        assert sorted(seed for _, _, seed in journal.units) == [0, 2]
