"""Training writes what it promises, is reproducible and resumes; loading says what is wrong."""

from __future__ import annotations

import json
import shutil
import zipfile

import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter

from burstenv.agents.agent import load_agent
from burstenv.agents.baseline import settled
from burstenv.agents.bench import ppo_frames_per_s
from burstenv.agents.config import AgentConfig
from burstenv.agents.imitation.imitate import imitate
from burstenv.agents.imitation.teachers import Teacher
from burstenv.agents.networks import build_policy
from burstenv.agents.sb3.vec_env import SB3VecEnv
from burstenv.agents.train import load_agent_config, train
from burstenv.agents.validate import Validator
from burstenv.config import shipped
from burstenv.envs.batch import EnvironmentBatch
from burstenv.envs.scenario import load_scenario
from burstenv.errors import BurstenvError
from burstenv.evaluation.policy import check_agent
from burstenv.policies import parse_composite


def changed(recipe: AgentConfig, **values) -> AgentConfig:
    return AgentConfig.model_validate({**recipe.model_dump(), **values})


def weights(checkpoint):
    with zipfile.ZipFile(checkpoint) as archive, archive.open("policy.pth") as file:
        return torch.load(file, weights_only=True)


TINY = {
    "name": "tiny", "network": "shared", "net_arch": [16], "num_envs": 8,
    "algorithm": {"name": "ppo", "n_steps": 32, "batch_size": 128, "n_epochs": 2},
    "total_steps": 1024, "batching": "edf-512",
    "validation": {"episodes": 2, "loads": [1.0, 2.0], "every_steps": 512},
}  # fmt: skip


@pytest.fixture(scope="module")
def run(scenario, tmp_path_factory):
    """A finished run that tests may read but not change."""
    return train(AgentConfig.model_validate(TINY), scenario, tmp_path_factory.mktemp("runs") / "run", progress=False)


class Written(KVWriter):
    """An output of the logger that keeps what it is given, as one to a server would send it."""

    def __init__(self):
        self.dumps: list[tuple[int, dict]] = []
        self.closed = False

    def write(self, key_values, key_excluded, step=0):
        self.dumps.append((step, dict(key_values)))

    def close(self):
        self.closed = True


class Called(BaseCallback):
    """A callback that counts, as one that watches a run would."""

    calls = dict.fromkeys(("begin", "step", "rollout", "end"), 0)

    def _count(self, name):
        self.calls = {**self.calls, name: self.calls[name] + 1}
        return True

    def _on_training_start(self):
        self._count("begin")

    def _on_step(self):
        return self._count("step")

    def _on_rollout_end(self):
        self._count("rollout")

    def _on_training_end(self):
        self._count("end")


def test_loggers_and_callbacks_of_others_see_the_run(scenario, tmp_path):
    config = AgentConfig.model_validate({**TINY, "total_steps": 512})
    written, called = Written(), Called()
    run = train(config, scenario, tmp_path / "run", progress=False, callback=called, output_formats=[written])
    assert called.calls == {"begin": 1, "step": 64, "rollout": 2, "end": 1}
    assert written.closed
    seen = {name: value for _, dump in written.dumps for name, value in dump.items()}
    assert seen["validation/score"] == pytest.approx(np.mean(list(run.log[-1]["validation"].values())))
    assert written.dumps[-1][0] == run.steps
    settings = seen["hparams"].hparam_dict
    assert (settings["algorithm.n_steps"], settings["scenario"]) == (32, scenario.config.name)
    assert seen["rollout/choice"].shape == (256,)
    assert set(seen["rollout/choice"].tolist()) <= set(range(1 + len(scenario.specs)))
    assert any(name.startswith("weights/") for name in seen)


def test_a_callback_where_stable_baselines3_does_not_train_is_an_error(scenario, tmp_path):
    evolving = AgentConfig.model_validate({"algorithm": "evolution", "network": "mlp", "net_arch": [4]})
    with pytest.raises(BurstenvError, match="callback is for the algorithms of Stable-Baselines3"):
        train(evolving, scenario, tmp_path / "run", progress=False, callback=Called())
    assert not (tmp_path / "run").exists()


def test_tensorboard_holds_histograms_and_hyperparameters(run):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = events.EventAccumulator(str(run.folder / "tensorboard"))
    found.Reload()
    tags = found.Tags()
    assert {"rollout/choice", "rollout/rewards"} <= set(tags["histograms"])
    assert any(tag.startswith("weights/") for tag in tags["histograms"])
    assert "validation/score" in tags["scalars"]
    assert any("hparams" in tag for tag in found.summary_metadata)


def test_a_run_folder_is_complete(run):
    assert run.steps == 1024
    assert not run.interrupted
    for name in ("agent.json", "best.zip", "last.zip", "training.json"):
        assert (run.folder / name).is_file()
    assert list((run.folder / "tensorboard").iterdir())
    assert not list(run.folder.glob(".*.tmp"))
    log = json.loads((run.folder / "training.json").read_text())
    assert log == run.log
    assert [record["steps"] for record in log] == [0, 512, 1024]
    assert all(0.0 <= record["validation"]["2"] <= 1.0 for record in log)
    assert set(log[0]["reference_policy"].values()) == set(run.reference_policies.values()) == {"always/jsq/vllm"}
    assert log[-1]["ahead_points"]["2"]["mean"] == pytest.approx(
        100 * (log[-1]["validation"]["2"] - log[-1]["reference"]["2"])
    )
    best = max(np.mean(list(record["validation"].values())) for record in log)
    assert np.mean(list(run.validation.values())) == best


def test_the_best_checkpoint_does_what_the_log_says(run, scenario):
    agent = load_agent(run.folder, scenario)
    assert agent.name == "tiny-seed0"
    assert agent.trivial == "always/jsq/edf-512"
    check_agent(agent)
    assert Validator(agent.config, scenario).judge(agent).by_load() == run.validation


def test_an_agent_needs_nothing_but_its_folder(run):
    agent = load_agent(run.folder / "last.zip")
    batch = EnvironmentBatch(3, load_scenario_of(run), **agent.environment)
    random = np.random.default_rng(0)
    for i in range(3):
        batch.reset(i, random)
    masks = batch.masks.astype(bool)
    actions = agent.act(batch.observations, masks)
    assert actions.shape == (3, 1)
    masks[:] = False
    masks[:, 3] = True
    assert (agent.act(batch.observations, masks) == 3).all()


def load_scenario_of(run):
    return load_scenario(json.loads((run.folder / "agent.json").read_text())["scenario_config"])


class First:
    """Takes the first choice that is no rejection."""

    def begin(self, count):
        pass

    def keep(self, rows):
        pass

    def act(self, observations, masks):
        return np.ones((len(observations), 1), np.int64)


def test_the_reference_is_judged_on_the_same_episodes(scenario, recipe):
    """A composite played step by step through the batch scores what its compiled rollout scores."""
    by_steps = Validator(changed(recipe, batching="edf-512"), scenario).judge(First())
    always = Validator(changed(recipe, decide=["admission"], action="multi", routing="jsq"), scenario)
    admit_all = always.judge(First())
    by_rollout = always.judge_composites(dict.fromkeys(always.loads, "always/jsq/vllm"))
    np.testing.assert_array_equal(admit_all.scores, by_rollout.scores)
    assert by_steps.by_load()[2.0] < admit_all.by_load()[2.0]  # all requests on one replica of four
    assert admit_all.ahead_overall(by_rollout).mean == 0.0
    assert admit_all.ahead_of(by_steps)[2.0].mean > 0.0


def test_same_seed_same_weights(scenario, recipe, tmp_path):
    first = train(recipe, scenario, tmp_path / "a", seed=3, progress=False)
    again = train(recipe, scenario, tmp_path / "b", seed=3, progress=False)
    other = train(recipe, scenario, tmp_path / "c", seed=4, progress=False)
    a, b, c = (weights(result.last) for result in (first, again, other))
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert any(not torch.equal(a[key], c[key]) for key in a)


def test_a_run_is_not_overwritten_or_mixed(run, scenario, recipe, two_replicas, tmp_path):
    with pytest.raises(BurstenvError, match="already holds a training run"):
        train(recipe, scenario, run.folder, progress=False)
    config = load_agent(run.folder).config
    with pytest.raises(BurstenvError, match="started with gamma"):
        train(changed(config, gamma=0.9), scenario, run.folder, resume=True, progress=False)
    with pytest.raises(BurstenvError, match="started with seed 0"):
        train(config, scenario, run.folder, seed=1, resume=True, progress=False)
    with pytest.raises(BurstenvError, match="no such run folder"):
        train(recipe, scenario, tmp_path / "none", resume=True, progress=False)


def test_minutes_bound_a_run(scenario, recipe, tmp_path):
    result = train(changed(recipe, total_steps=10**9, minutes=0.01), scenario, tmp_path / "run", progress=False)
    assert 0 < result.steps < 10**6
    assert result.log[-1]["steps"] == result.steps


def test_loading_says_what_is_wrong(run, tmp_path):
    with pytest.raises(BurstenvError, match="no such run folder"):
        load_agent(tmp_path / "absent")
    with pytest.raises(BurstenvError, match=r"holds no agent\.json"):
        load_agent(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(run.folder, copy)
    (copy / "best.zip").write_bytes(b"not a zip")
    with pytest.raises(BurstenvError, match="is not a checkpoint"):
        load_agent(copy)
    with pytest.raises(BurstenvError, match="no such file"):
        load_agent(copy / "other.zip")
    (copy / "best.zip").unlink()
    (copy / "last.zip").unlink()
    with pytest.raises(BurstenvError, match="holds no checkpoint"):
        load_agent(copy)
    (copy / "agent.json").write_text("[]")
    with pytest.raises(BurstenvError, match="is not the description of an agent"):
        load_agent(copy)


def test_other_batching_modes_are_refused(run):
    values = json.loads((run.folder / "agent.json").read_text())["scenario_config"]
    with pytest.raises(BurstenvError, match="was trained with batching modes vllm, edf-512"):
        load_agent(run.folder, load_scenario({**values, "modes": ["edf-512", "vllm"]}))


@pytest.mark.parametrize(("network", "student_share"), [("mlp", 0.0), ("shared", 0.0), ("shared", 1.0)])
@pytest.mark.parametrize(
    "decides",
    [
        {},
        {"decide": ["routing"], "action": "multi"},
        {"decide": ["admission", "routing", "batching"], "action": "multi"},
    ],
)
def test_imitation_raises_agreement_with_the_teacher(scenario, recipe, network, student_share, decides):
    config = changed(
        recipe, network=network, net_arch=[32], num_envs=16,
        warm_start={
            "policy": "queue-cap(limit=2)/jsq/edf-512", "steps": 16 * 32 * 24, "epochs": 4, "chunk_steps": 32,
            "batch_size": 128, "student_share": student_share,
        }, **decides,
    )  # fmt: skip
    assert config.warm_start is not None
    batch = EnvironmentBatch(16, scenario, load=2.0, reward="dense", **config.environment())
    venv = SB3VecEnv(batch, 0, config.reward_scale, config.warm_start.policy)
    torch.manual_seed(0)
    policy = build_policy(config, batch.layout, batch.observation_layout)
    seen = []
    imitate(policy, venv, config.warm_start, 0.99, 0, seen.append)
    assert seen[-1].steps == 16 * 32 * 24
    assert seen[-1].agreement > seen[0].agreement
    assert seen[-1].cross_entropy < seen[0].cross_entropy


def test_the_teacher_is_the_composite(scenario):
    """Acting as the teacher says settles an episode as the composite's compiled rollout does."""
    text = "size-aware-kv/round-robin/edf-512"  # no ties, so that no random choice is drawn
    batch = EnvironmentBatch(
        6, scenario, split="validation", decide=("admission", "routing"), action="flat", batching="edf-512"
    )
    venv = SB3VecEnv(batch)
    random = np.random.default_rng(0)
    for i in range(6):
        batch.reset(i, random, {"episode": i, "load": 2.0})
    teacher = Teacher(venv, text)
    while not batch.done.all():
        targets, actions = teacher.ask()
        assert set(np.round(targets.sum(1), 6)) <= {0.0, 1.0}
        batch.actions[...] = actions
        batch.step()
    attained = batch.cluster.state.environments["attained"].copy()
    rejected = batch.cluster.state.environments["rejected"].copy()
    for i in range(6):
        batch.reset(i, random, {"episode": i, "load": 2.0})
        batch.fast_forward(i, parse_composite(text), 10**9)
    np.testing.assert_array_equal(batch.cluster.state.environments["attained"], attained)
    np.testing.assert_array_equal(batch.cluster.state.environments["rejected"], rejected)
    assert rejected.sum() > 0


def test_the_shared_network_treats_replicas_alike(scenario, recipe):
    """Exchanging two replicas in the observation exchanges their logits and nothing else."""
    from burstenv.agents.networks import logits

    config = changed(recipe, network="shared", net_arch=[16])
    batch = EnvironmentBatch(1, scenario, **config.environment())
    torch.manual_seed(1)
    policy = build_policy(config, batch.layout, batch.observation_layout)
    observations = torch.randn(5, batch.observation_size)
    features = batch.observation_layout.num_replica
    shared = batch.observation_size - 4 * features
    exchanged = observations.clone()
    first, third = (slice(shared + r * features, shared + (r + 1) * features) for r in (0, 2))
    exchanged[:, first], exchanged[:, third] = observations[:, third], observations[:, first]
    with torch.no_grad():
        before, after = logits(policy, observations), logits(policy, exchanged)
        torch.testing.assert_close(before[:, [0, 3, 2, 1, 4]], after)
        torch.testing.assert_close(policy.predict_values(observations), policy.predict_values(exchanged))
    assert not torch.allclose(before[:, 1], before[:, 3])


def test_the_bench_counts_frames(scenario, recipe):
    for algorithm in ("ppo", "maskable-ppo"):
        measured = ppo_frames_per_s(
            scenario, 512, changed(recipe, algorithm={**recipe.algorithm.model_dump(), "name": algorithm})
        )
        assert measured["frames"] == 512
        assert 0.0 < measured["environment_share"] < 1.0
        assert measured["frames_per_s"] > 0 < measured["null_frames_per_s"]


def test_shipped_recipes_are_valid():
    assert {"ppo", "maskable-ppo", "demo"} <= set(shipped("agents"))
    for name in shipped("agents"):
        assert load_agent_config(name).name == name


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"algoritm": "ppo"}, "unknown key 'algoritm'; valid keys: name, description, algorithm"),
        (
            {"algorithm": {"name": "dqn", "batch_sise": 3}},
            "unknown key 'algorithm.dqn.batch_sise'; valid keys: learning_rate, schedule, buffer_size",
        ),
        ({"algorithm": {"name": "ppo", "batch_size": 1000}}, "batch_size must divide num_envs x n_steps = 32768"),
        ({"decide": ["routing"]}, "action 'flat' needs decide"),
        (
            {"algorithm": "reinforce"},
            "unknown algorithm 'reinforce'; valid: ppo, maskable-ppo, recurrent-ppo, a2c, dqn",
        ),
        ({"algorithm": "dqn"}, "algorithm dqn needs network: mlp"),
    ],
)
def test_recipe_errors(values, message):
    with pytest.raises(BurstenvError, match=message):
        load_agent_config(values)


def test_the_recipe_may_leave_mode_and_load_to_the_scenario():
    config = load_agent_config("joint").model_copy(update={"load": "judged"})
    settled_config = settled(config, load_scenario("blind"))
    assert (settled_config.load, settled_config.batching) == (3.5, "sarathi-512")  # as configs/tuned has it
    assert Validator(settled_config.model_copy(update={"warm_start": None}), load_scenario("blind")).loads == (3.5,)
    assert settled(settled_config, load_scenario("stale")) == settled_config


def test_a_scenario_that_was_never_tuned_is_taught_by_a_good_composite(scenario, recipe, tmp_path, capsys):
    asked = changed(recipe, batching="tuned", network="mlp", warm_start={"policy": "tuned", "steps": 64})
    assert settled(asked, scenario).batching == "vllm"
    result = train(asked, scenario, tmp_path / "run", progress="lines")
    assert set(result.reference_policies.values()) == {"size-aware-kv/expected-ttft/vllm"}
    said = "no composite was tuned on small: size-aware-kv/expected-ttft/vllm teaches; burstenv tune finds better ones"
    assert said in capsys.readouterr().err
