"""Ensembles: they decide as their members vote, and as their rules where too few members agree."""

from __future__ import annotations

import copy
import json
from collections import Counter

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from burstenv.agents.baseline import settled
from burstenv.agents.config import AgentConfig
from burstenv.agents.evolution.strategies import EvolutionLearner
from burstenv.agents.export.arrays import compiled
from burstenv.agents.export.ensemble import export_ensemble
from burstenv.agents.play.stage import LocalStage
from burstenv.agents.train import train
from burstenv.cli import main
from burstenv.cluster.gateway import ADMIT, REJECT
from burstenv.envs.play.network import NetworkPlayer, seat_of
from burstenv.envs.play.other_network import observe_at
from burstenv.envs.play.policy import player_of
from burstenv.envs.play.stepping import run_by_steps
from burstenv.errors import BurstenvError
from burstenv.evaluation import EvaluationPlan, EvaluationResult, evaluate
from burstenv.evaluation.tasks import load_episode
from burstenv.evaluation.tuning.tuned_policies import shipped_tuned
from burstenv.policies import load_policy, parse_composite
from burstenv.policies.composite import composite_of
from burstenv.policies.decide import choose_admission_at, policy_decision
from burstenv.policies.network.ensemble import Ensemble, EnsemblePolicy
from burstenv.policies.network.voting import elect_all
from burstenv.policies.network.weights import Network
from tests.agents.conftest import SCENARIO
from tests.agents.test_advised import RULES, of_rules, short, untrained
from tests.agents.test_background_agents import PARTS, slack, small  # noqa: F401  slack is a fixture
from tests.agents.test_compiled import agent_of, same
from tests.policies.test_agent_files import FORMS, decides_as_it_says
from tests.policies.test_agent_files import _mutate as mutate
from tests.random_examples import examples

MODES = ("vllm", "edf-512")
REPLICAS = 4


@pytest.fixture(scope="module")
def default():
    return short("default")


def member(scenario, network: str = "shared", form: str = "flat", seed: int = 0, **values) -> Network:
    policy = compiled(agent_of(scenario, network, form, seed, **values))
    assert policy is not None
    return policy.network


def ensemble(members: list[Network], agree: int, fallback: str | None = None) -> EnsemblePolicy:
    return EnsemblePolicy(Ensemble.of("several", members, agree, fallback), "several")


def played(scenario, policy, episode):
    """The records of an episode, and the decisions that its rules made."""
    cluster = scenario.make_cluster()
    load_episode(cluster, policy, episode)
    player = player_of(policy, cluster, 0, scenario.sight)
    player.run()
    return cluster.records(0).copy(), player.fallbacks if isinstance(player, NetworkPlayer) else 0


def vote(ballots: list[tuple[int, ...]], flat: bool) -> tuple[tuple[int, ...], int]:
    """The joint choice and its votes, as docs/agents.md says it."""
    if flat:
        rejections = ballots.count((0,))
        if 2 * rejections >= len(ballots):
            return (0,), rejections
        ballots = [ballot for ballot in ballots if ballot != (0,)]
    counted = Counter(ballots)
    most = max(counted.values())
    return min(ballot for ballot, votes in counted.items() if votes == most), most


def read_plainly(scenario, policy: EnsemblePolicy, episode):
    """What ``played`` returns, decision by decision in Python."""
    cluster, told = scenario.make_cluster(), policy.environment
    load_episode(cluster, policy, episode)
    seat, state = seat_of(policy, cluster, 0, scenario.sight), cluster.state
    mode = told["batching"] or cluster.mode_names[0]
    fixed = composite_of(told["admission"], told["routing"], mode).record(cluster.mode_names)
    fallbacks = 0

    def decision() -> tuple[int, int, int]:
        nonlocal fallbacks
        observe_at(*state.arrays(), *seat, 0)
        seen = seat.observation, seat.mask.astype(bool)
        ballots = [tuple(one.act(*seen)[0].tolist()) for one in policy.members]
        choice, votes = vote(ballots, policy.flat)
        if votes < policy.agree:
            fallbacks += 1
            out = np.zeros(3, np.int64)
            policy_decision(*state.arrays(), policy.fallback.record(cluster.mode_names), 0, out)
            return tuple(out.tolist())
        if policy.flat:
            admission, replica = (ADMIT, choice[0] - 1) if choice[0] else (REJECT, 0)
        elif told["decide"] == ["routing"]:
            replica = choice[0]
            admission = int(choose_admission_at(*state.arrays(), fixed, 0, replica))
        else:
            return choice
        return admission, replica, int(fixed["mode"][0])

    run_by_steps(cluster, 0, decision)
    return cluster.records(0).copy(), fallbacks


@examples(12)
@given(data=st.data())
def test_it_decides_as_a_plain_reading_of_the_rule_does(scenario, data):
    form = data.draw(st.sampled_from(["flat", "flat", "all", "routing"]))
    network = data.draw(st.sampled_from(["shared", "attention", "mlp"]))
    count, seed = data.draw(st.integers(1, 5)), data.draw(st.integers(0, 2**16))
    widths = [data.draw(st.sampled_from([[16, 12], [8]])) for _ in range(count)]
    members = [member(scenario, network, form, seed + k, net_arch=width) for k, width in enumerate(widths)]
    rules = data.draw(
        st.sampled_from(["always/round-robin", "queue-cap(limit=6)/power-of-two", "token-bucket/lmetric"])
    )
    admission, routing = rules.split("/")
    fallback = f"{'always' if form == 'routing' else admission}/{routing}/{MODES[form == 'all']}"
    policy = ensemble(members, data.draw(st.integers(0, count + 1)), fallback)
    episode = LocalStage(scenario).draw("validation", 1.5, seed)
    (records, fallbacks), (read, told) = (way(scenario, policy, episode) for way in (played, read_plainly))
    assert fallbacks == told
    assert same(records, read)


@examples(200)
@given(
    count=st.integers(1, 7), size=st.integers(1, 3), choices=st.integers(1, 4), flat=st.booleans(), seed=st.integers(0)
)
def test_the_vote(count, size, choices, flat, seed):
    flat = flat and size == 1
    ballots = np.random.default_rng(seed).integers(0, choices, (50, count, size))
    actions = np.zeros((50, size), np.int64)
    elect_all(ballots, flat, actions)
    for cast, action in zip(ballots.tolist(), actions.tolist(), strict=True):
        assert tuple(action) == vote([tuple(ballot) for ballot in cast], flat)[0]


def test_act_is_the_majority_of_the_members(scenario):
    policy = ensemble([member(scenario, seed=seed) for seed in range(3)], 0)
    random = np.random.default_rng(0)
    observations = random.normal(size=(500, scenario.observation_layout.size)).astype(np.float32)
    masks = random.random((500, 5)) < 0.8
    alone = [one.act(observations, masks)[:, 0].tolist() for one in policy.members]
    assert alone[0] != alone[1] != alone[2]
    expected = [vote([(choice,) for choice in chosen], True)[0][0] for chosen in zip(*alone, strict=True)]
    assert policy.act(observations, masks)[:, 0].tolist() == expected


def test_one_member_is_the_agent_itself_and_agree_up_to_one_the_majority(scenario):
    members = [member(scenario, seed=seed) for seed in range(3)]
    episode = LocalStage(scenario).draw("validation", 1.5, 0)
    rules = "never/jsq/vllm"
    alone = played(scenario, ensemble(members[:1], 0).members[0], episode)[0]
    assert same(alone, played(scenario, ensemble(members[:1], 1, rules), episode)[0])
    majority, one, two = (played(scenario, ensemble(members, agree, rules), episode) for agree in (0, 1, 2))
    assert same(majority[0], one[0])
    assert majority[1] == one[1] == 0 < two[1]
    assert not same(majority[0], two[0])


@pytest.mark.parametrize("rules", RULES)
def test_with_more_to_agree_than_there_are_it_is_the_rules(default, rules):
    """Byte for byte, with every kind of memory, which moves on once also where the rules advise the members."""
    plain = [member(default, seed=seed, batching=of_rules(rules)["batching"]) for seed in range(2)]
    advised = untrained(default, **of_rules(rules)).network
    shifted = {name: array + np.float32(0.3) for name, array in advised.arrays.items()}
    advised_too = [advised, Network({**advised.description, "name": "other"}, shifted)]
    for seed in range(2):
        episode = LocalStage(default).draw("validation", 2.0, seed)
        expected = played(default, parse_composite(rules), episode)[0]
        for members in (plain, advised_too):
            records, fallbacks = played(default, ensemble(members, 3, parse_composite(rules).name), episode)
            assert fallbacks > 0
            assert same(records, expected)


def test_the_fine_tuning_job_falls_back_to_its_rule(slack):  # noqa: F811
    config = settled(small(decide=["background"]), slack)
    learner = EvolutionLearner(config, [slack], 0)
    shift = np.random.default_rng(0).standard_normal(len(learner._center))
    members = [learner._candidate(learner._center + k * shift).network for k in range(2)]
    rules = "/".join(PARTS.values())
    episode = LocalStage(slack).draw("validation", 1.0, 3)
    scores = [
        one.score
        for one in LocalStage(slack).play(
            [(ensemble(members, 3, rules), episode), (learner.actor(), episode), (ensemble(members, 0), episode)]
        )
    ]
    assert scores[0] == scores[1]  # untrained it is the rule
    assert scores[0] != scores[2]


# -- files -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(scenario, tmp_path_factory):
    """Two runs of one recipe that took a moment."""
    config = AgentConfig.model_validate(
        {
            "name": "tiny", "network": "shared", "net_arch": [8], "num_envs": 8, "action": "flat",
            "batching": "edf-512",
            "algorithm": {"name": "ppo", "n_steps": 32, "batch_size": 128, "n_epochs": 1},
            "total_steps": 256, "validation": {"episodes": 2, "loads": [1.0], "every_steps": 256},
        }
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("runs")
    return [train(config, scenario, folder / str(seed), seed=seed, progress=False).folder for seed in range(2)]


def test_one_command_makes_it_and_reports_tell_how_often_it_falls_back(runs, tmp_path):
    file, out, card = tmp_path / "pair.npz", tmp_path / "report", tmp_path / "pair.md"
    assert main(["agents", "export", *map(str, runs), "--out", str(file)]) == 0
    policy = load_policy(f"agent:{file}")
    assert isinstance(policy, EnsemblePolicy)
    assert [one.name for one in policy.members] == ["tiny-seed0", "tiny-seed1"]
    assert (policy.agree, policy.sampled) == (2, False)  # more than half; PPO's agents draw by themselves
    assert policy.fallback is not None
    assert policy.fallback.name.startswith("size-aware-kv")  # nothing is tuned on this scenario
    assert policy.fallback.batching == "edf-512"  # which is not for the members to decide
    again = tmp_path / "again" / "pair.npz"
    again.parent.mkdir()
    export_ensemble([*runs], again)
    assert again.read_bytes() == file.read_bytes()
    assert policy.digest == load_policy(f"agent:{again}").digest
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SCENARIO))
    arguments = ["evaluate", "--scenario", str(tmp_path / "small.yaml"), "--policy", f"agent:{file}", "--load", "2.0"]
    arguments += ["--policy", "always/jsq/vllm", "--episodes", "4", "--workers", "1", "--tuned", "none"]
    assert main([*arguments, "--out", str(out)]) == 0
    result = json.loads((out / "result.json").read_text())
    shares = [row.get("fallback_share") for row in result["episodes"]]
    assert sum(share is not None for share in shares) == 4
    mine = next(row for row in result["summary"] if row["policy"] == "agent:pair")
    assert mine["fallback_share"] == pytest.approx(np.mean([share for share in shares if share is not None]))
    assert 0.0 < mine["fallback_share"] < 1.0
    assert "falls back" in (out / "report.md").read_text()
    mine_as_text = [row | {"fallback_share": "x"} for row in result["summary"]]
    (tmp_path / "wrong.json").write_text(json.dumps({**result, "summary": mine_as_text}))
    with pytest.raises(BurstenvError, match="fallback_share must be a share or null"):
        EvaluationResult.from_json(tmp_path / "wrong.json")
    assert main(["agents", "card", str(file), str(out), "--name", "pair", "--out", str(card)]) == 0
    told = card.read_text()
    assert "An ensemble of 2: `tiny-seed0`, `tiny-seed1`." in told
    assert f"fewer than 2 members make the same choice, `{policy.fallback.name}` decides" in told
    assert f"{100 * mine['fallback_share']:.1f} % on small at load 2" in told


def test_members_may_be_shipped_agents_and_the_rules_those_tuned_for_their_scenario(default, tmp_path, capsys):
    file = export_ensemble(["agent:joint-v4", "agent:joint-v4(deterministic)"], tmp_path / "twice.npz", agree=3)
    tuned, _ = shipped_tuned(default.config, default.trace)
    policy = load_policy(f"agent:{file}")
    parts = policy.fallback.name.split("/")
    assert parts[2] == policy.environment["batching"]
    if not policy.environment.get("advised"):
        assert parts[:2] == load_policy(tuned.at(default.config.load)).name.split("/")[:2]
    result = evaluate(EvaluationPlan(default, episodes=1, policies=[policy]), progress=False)
    assert result.summary_of(policy.name, default.config.load)["fallback_share"] == 1.0
    rows = [f"{k / 10},ChatGPT,{300 + k},100,{400 + k},Conversation log" for k in range(40)]
    head = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type"
    (tmp_path / "trace.csv").write_text("\n".join([head, *rows, ""]))
    capsys.readouterr()
    assert main(["simulate", str(tmp_path / "trace.csv"), "--policy", f"agent:{file}"]) == 0
    assert "rules made 100.0 % of the decisions" in capsys.readouterr().out


def altered(network: Network, **changes) -> Network:
    return Network({**network.description, **changes}, network.arrays)


def with_environment(network: Network, **changes) -> Network:
    return altered(network, environment={**network.description["environment"], **changes})


GOOD = "queue-cap/jsq/vllm"
WRONG = {
    "another network": (lambda s: [member(s), member(s, "attention")], 2, GOOD, "differ in network: shared and atten"),
    "another activation": (lambda s: [member(s), member(s, activation="relu")], 2, GOOD, "differ in activation"),
    "another environment": (
        lambda s: [member(s), member(s, batching="edf-512")], 2, GOOD,
        "differ in environment: batching None and batching edf-512",
    ),
    "other decisions": (lambda s: [member(s), member(s, "shared", "all")], 2, GOOD, "differ in heads"),
    "other features": (
        lambda s: [member(s), altered(member(s), features={**member(s).description["features"], "request": ["a"]})],
        2, GOOD, "differ in features: request",
    ),
    "none": (lambda s: [], 0, GOOD, "has no members"),
    "too much to agree": (lambda s: [member(s)], 500, GOOD, "agree"),
    "no rules": (lambda s: [member(s)], 2, None, "agree 2 needs a fallback"),
    "no composite": (lambda s: [member(s)], 2, "agent:joint-v5", "fallback: policy 'agent:joint-v5' needs three parts"),
    "an unknown rule": (lambda s: [member(s)], 2, "alway/jsq/vllm", "fallback: unknown admission rule"),
    "an unknown mode": (lambda s: [member(s)], 2, "always/jsq/spf", "spf is none of modes"),
    "a mode that is not theirs": (lambda s: [member(s)], 2, "always/jsq/edf-512", "batching must be vllm"),
    "an admission that is not theirs": (
        lambda s: [member(s, "shared", "routing")], 2, GOOD,
        "admission must be always, which is not for them to decide",
    ),
    "true lengths": (lambda s: [member(s)], 2, "oracle-size-aware-kv/jsq/vllm", "see no true output lengths"),
    "a further part": (lambda s: [member(s)], 2, f"{GOOD}/llumnix", "must have three parts; leave out llumnix"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_ensemble_is_an_error(scenario, case):
    members, agree, fallback, said = WRONG[case]
    with pytest.raises(BurstenvError, match=said) as error:
        Ensemble.of("several", members(scenario), agree, fallback, "several.npz")
    assert str(error.value).startswith("several.npz")


def test_advised_members_fall_back_to_the_rules_that_advise_them(default, tmp_path):
    advised = untrained(default, **of_rules(RULES[0])).network
    with pytest.raises(BurstenvError, match=r"routing must be expected-ttft.*, which advises the members"):
        Ensemble.of("several", [advised], 2, RULES[0].replace("expected-ttft", "jsq"))
    advised.save(tmp_path / "one.npz")
    policy = load_policy(f"agent:{export_ensemble([tmp_path / 'one.npz'], tmp_path / 'ensemble.npz', agree=2)}")
    assert policy.fallback == parse_composite(RULES[0])


def test_files_that_contradict_themselves(scenario):
    good = Ensemble.of("pair", [member(scenario, seed=seed) for seed in range(2)], 2, GOOD)
    arrays = {f"{k}.{name}": array for k, one in enumerate(good.members) for name, array in one.arrays.items()}
    first = next(iter(arrays))
    for changed, weights, said in (
        ({}, {**arrays, "2.encoder.0.bias": arrays["0.encoder.0.bias"]}, "belong to none of 2 members"),
        ({}, {**arrays, "encoder.0.bias": arrays["0.encoder.0.bias"]}, "belong to none of 2 members"),
        ({}, {name: array for name, array in arrays.items() if name != first}, "member 0: lacks weights"),
        ({}, {name: array for name, array in arrays.items() if name[0] == "0"}, "member 1: lacks weights"),
        ({}, {**arrays, first: arrays[first] * np.float32(np.nan)}, "member 0: .* hold NaN"),
        ({"sampled": True}, arrays, "sampled must be false"),
        ({"ensemble": []}, arrays, "ensemble is no mapping"),
        ({"ensemble": {**good.description["ensemble"], "agrees": 2}}, arrays, "unknown key"),
        ({"heads": [0]}, arrays, "heads are"),
    ):
        with pytest.raises(BurstenvError, match=said):
            Ensemble.read({**good.description, **changed}, weights, "pair.npz")


def test_what_an_ensemble_does_not_do(scenario, runs, tmp_path):
    members = [member(scenario, seed=seed) for seed in range(2)]
    policy = ensemble(members, 2, GOOD)
    seen = np.zeros((1, scenario.observation_layout.size), np.float32), np.ones((1, 5), bool)
    for call, said in (
        (lambda: policy.act(*seen), "falls back to rules that read the cluster"),
        (lambda: policy.logits(seen[0]), "no logits of its own"),
        (lambda: policy.twin(), "most probable choices of its members alone"),
        (lambda: export_ensemble(runs, tmp_path / "pair.onnx"), r"ends in \.npz"),
        (lambda: export_ensemble([runs[0], runs[0]], tmp_path / "pair.npz"), "is there twice"),
        (lambda: export_ensemble(["agent:joint-v0"], tmp_path / "pair.npz"), "unknown agent 'joint-v0'"),
    ):
        with pytest.raises(BurstenvError, match=said):
            call()
    file = tmp_path / "small.npz"
    members[0].save(file)
    with pytest.raises(BurstenvError, match=r"no tuned composite is known for scenario 'small'.*--fallback"):
        export_ensemble([file], tmp_path / "one.npz", agree=2)
    assert main(["agents", "export", str(file), "--out", str(tmp_path / "one.npz"), "--agree", "0"]) == 0
    export_ensemble([tmp_path / "one.npz"], tmp_path / "again.npz", agree=0)  # its only member
    again = load_policy(f"agent:{tmp_path / 'again.npz'}").members[0].network.arrays
    assert all(np.array_equal(again[name], array) for name, array in members[0].arrays.items())
    export_ensemble([*runs], tmp_path / "two.npz", agree=0)
    with pytest.raises(BurstenvError, match="a member of an ensemble must be a single network"):
        export_ensemble([tmp_path / "two.npz"], tmp_path / "three.npz")


@examples(100)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_changed_file_is_an_error_or_runs_within_its_weights(seed):
    random = np.random.default_rng(seed)
    form = ("flat", "attention", "routing", "mlp")[random.integers(4)]
    good = Ensemble.of("pair", [FORMS[form]] * 2, int(random.integers(2)), None)
    description = copy.deepcopy(dict(good.description))
    arrays = {f"{k}.{name}": array for k, one in enumerate(good.members) for name, array in one.arrays.items()}
    mutate(random, description if random.random() < 0.5 else description["ensemble"])
    if random.random() < 0.5:
        name = list(arrays)[random.integers(len(arrays))]
        array = arrays.pop(name)
        changed = (array[..., :-1], np.concatenate([array, array]), array * np.float32(np.inf))
        arrays[name if random.random() < 0.5 else name.replace("0", "1")] = changed[random.integers(3)]
    try:
        read = Ensemble.read(description, arrays, "pair.npz")
    except BurstenvError:
        return
    for one in read.members:
        decides_as_it_says(one)
