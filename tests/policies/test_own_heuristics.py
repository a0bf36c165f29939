"""A user's heuristic in plain Python: available everywhere by name, with the decisions of a compiled one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from burstenv.envs.env import BurstGPTEnv
from burstenv.envs.play.policy import player_of
from burstenv.envs.scenario import load_scenario
from burstenv.errors import BurstenvError
from burstenv.evaluation import EvaluationPlan, evaluate
from burstenv.policies import PythonPolicy, load_policy, load_policy_file
from tests.cluster.small_clusters import assert_same_records

MINE = """
from burstenv.policies import admission_rule, policy, routing_rule


@routing_rule(name="own-jsq")
def jsq(view):
    "Fewest requests."
    return view.least(lambda replica: replica.waiting + replica.running)


@routing_rule(name="own-ttft")
def ttft(view):
    return view.least(lambda replica: replica.expected_ttft_s).index


@admission_rule(name="own-cap", parameters={"limit": (16, 1, 128, "log")})
def cap(view, replica, limit):
    "Reject when the replica has `limit` waiting requests."
    return replica.waiting < limit


@admission_rule(name="own-kv")
def kv(view, replica):
    return "admit" if replica.kv_demand <= 1.0 else "reject"


@policy(name="own-policy", parameters={"limit": 16}, modes=("edf-512",), ticks=True)
def whole(view, limit):
    if view.request is None:  # a tick: each replica in turn
        return "admit", view.decisions % len(view.replicas), "edf-512"
    replica = view.least(lambda replica: replica.waiting + replica.running)
    return replica.waiting < limit, replica, "edf-512"


@policy(name="own-counter")
def counter(view):
    "Every third request is rejected."
    view.memory["seen"] = view.memory.get("seen", 0) + 1
    return None if view.memory["seen"] % 3 == 0 else view.replicas[0]


@policy(name="own-oracle", oracle=True)
def oracle(view):
    return view.replicas[0] if view.request.output_tokens < 100 else "reject"
"""


@pytest.fixture(scope="module")
def scenario(small_scenario):
    return load_scenario(small_scenario)


@pytest.fixture(scope="module")
def mine(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("own") / "mine.py"
    path.write_text(MINE)
    load_policy_file(path)
    return path


def records_of(scenario, policy: str, seed: int = 3, load: float = 2.0):
    cluster = scenario.make_cluster()
    requests, _ = scenario.episode("train", seed, load * scenario.capacity_per_s("train"))
    cluster.load(0, requests, seed)
    player_of(load_policy(policy), cluster).run()
    assert cluster.done(0)
    return cluster.records(0)


@pytest.mark.parametrize(
    ("own", "compiled"),
    [
        ("own-cap/own-jsq/edf-512", "queue-cap/jsq/edf-512"),
        ("own-cap(limit=3)/jsq/vllm", "queue-cap(limit=3)/jsq/vllm"),
        ("token-bucket/own-jsq/vllm", "token-bucket/jsq/vllm"),
        ("own-kv/own-ttft/spf-512", "kv-threshold/expected-ttft/spf-512"),
        ("own-cap/power-of-two/vllm", "queue-cap/power-of-two/vllm"),
        ("own-policy", "queue-cap/jsq/edf-512"),
        ("own-policy(limit=4)", "queue-cap(limit=4)/jsq/edf-512"),
    ],
)
def test_python_decides_as_compiled_code_does(scenario, mine, own, compiled):
    expected = records_of(scenario, compiled)
    assert_same_records(records_of(scenario, own), expected)
    env = BurstGPTEnv(scenario=scenario)
    env.reset(seed=1, options={"episode": 3, "load": 2.0})
    done = False
    while not done:
        _, _, done, _, _ = env.step(env.policy_action(own))
    assert_same_records(env.batch.cluster.records(0), expected)


def test_a_run_in_pieces_is_the_same_run(scenario, mine):
    requests, _ = scenario.episode("train", 3, 20.0)
    whole, pieces = scenario.make_cluster(), scenario.make_cluster()
    for cluster in (whole, pieces):
        cluster.load(0, requests, 3)
    player_of(load_policy("own-counter"), whole).run()
    player = player_of(load_policy("own-counter"), pieces)
    while player.run(7) == 7:
        pass
    assert_same_records(pieces.records(0), whole.records(0))
    assert (whole.records(0)["status"] == 6).sum() == len(requests) // 3


def test_memory_is_empty_when_an_episode_begins(scenario, mine):
    env = BurstGPTEnv(scenario=scenario)
    for _ in range(2):
        env.reset(seed=1)
        assert [int(env.policy_action("own-counter")[0]) for _ in range(4)] == [1, 1, 0, 1]


def test_evaluated_beside_compiled_heuristics(scenario, mine):
    plan = EvaluationPlan(
        scenario=scenario, episodes=2, policies=["queue-cap/jsq/edf-512", "own-cap/own-jsq/edf-512", "own-oracle"]
    )
    result = evaluate(plan)
    attained = {
        name: [row["attained"] for row in result.episodes if row["policy"] == name]
        for name in ("queue-cap/jsq/edf-512", "own-cap/own-jsq/edf-512")
    }
    assert attained["own-cap/own-jsq/edf-512"] == attained["queue-cap/jsq/edf-512"]
    assert {row["name"]: row["privileged"] for row in result.policies}["own-oracle"]


def test_load_policy_accepts_every_form(mine, tmp_path):
    assert load_policy(f"{mine}:own-policy(limit=4)").name == "own-policy(limit=4)"
    assert load_policy(f"{mine}:own-cap/jsq/vllm").name == "own-cap/jsq/vllm"
    one = tmp_path / "one.py"
    one.write_text("import burstenv\n\n@burstenv.policies.policy(name='lonely')\ndef f(view):\n    return 0\n")
    policy = load_policy(str(one))
    assert isinstance(policy, PythonPolicy)
    assert policy.name == "lonely"


def test_parameters_set_a_tuners_range(mine):
    rule = load_policy("own-cap/jsq/vllm").admission.rule
    assert rule.ranges["limit"] == (1.0, 128.0, "log")
    assert load_policy("own-policy").rule.ranges["limit"] == (4.0, 64.0, "log")


def written(tmp_path: Path, body: str) -> Path:
    path = tmp_path / f"bad{abs(hash(body))}.py"
    path.write_text("from burstenv.policies import admission_rule, policy, routing_rule\n" + body)
    return path


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def f(:\n", "line 2: "),
        ("x = 1\ny = 1 / 0\n", "line 3: ZeroDivisionError: division by zero"),
        ("x = 1\n", "registers no heuristic; decorate a function with @policy"),
        ("@policy(name='Bad Name')\ndef f(view):\n    return 0\n", "line 2: policy name 'Bad Name' must be small"),
        ("@routing_rule(name='jsq')\ndef f(view):\n    return 0\n", "routing rule 'jsq' is a shipped one"),
        ("@policy(name='b-one', parameters={'x': 1})\ndef f(view):\n    return 0\n", "must take (view, x)"),
        ("@policy(name='b-two', parameters={'x': (9, 1, 2)})\ndef f(view, x):\n    return 0\n", "must lie between"),
        ("@policy(name='b-three', parameters={'x': 'many'})\ndef f(view, x):\n    return 0\n", "must be a number or"),
        ("@policy(name='own-policy')\ndef f(view):\n    return 0\n", "is registered already, at"),
    ],
)
def test_mistakes_in_the_file(mine, tmp_path, body, message):
    path = written(tmp_path, body)
    with pytest.raises(BurstenvError) as error:
        load_policy_file(path)
    assert message in str(error.value)
    assert path.name in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("    x = 1\n    return view.replica[0]\n", "line 5: {}: AttributeError: 'View' object has no attribute"),
        ("    return 'accept'\n", "returned 'accept'; need one of view.replicas or its number, 0 to 3"),
        ("    return 'admit'\n", "admit where? return a replica"),
        ("    return 99\n", "returned 99; need one of view.replicas"),
        ("    return True\n", "returned True; need one of view.replicas"),
        ("    return 7, 0\n", "returned 7; an admission is True, False or one of reject, admit, defer"),
        ("    return 'admit', 0, 'edf-513'\n", "unknown batching mode of this scenario 'edf-513'"),
        ("    return view.request.output_tokens\n", "is the true output length; use predicted_tokens"),
    ],
)
def test_mistakes_in_a_decision(scenario, tmp_path, body, message):
    name = f"wrong-{abs(hash(body))}"
    path = written(tmp_path, f"@policy(name='{name}')\ndef f(view):\n{body}")
    with pytest.raises(BurstenvError) as error:
        records_of(scenario, f"{path}:{name}")
    assert message.format(name) in str(error.value)
    assert path.name in str(error.value)
    assert "\n" not in str(error.value)


def test_a_rule_in_python_cannot_run_inside_the_compiled_step(scenario, mine):
    with pytest.raises(BurstenvError, match="rule own-cap is written in Python: it runs in evaluate"):
        BurstGPTEnv(scenario=scenario, decide=("routing",), admission="own-cap")


def test_unknown_names(mine, tmp_path):
    with pytest.raises(BurstenvError, match="unknown policy 'own-polcy'; did you mean own-policy"):
        load_policy("own-polcy")
    with pytest.raises(BurstenvError, match="cannot be read"):
        load_policy(str(tmp_path / "absent.py"))
    with pytest.raises(BurstenvError, match=r"holds the policies own-policy, .*; name one, such as .*:own-policy"):
        load_policy(str(mine))
    with pytest.raises(BurstenvError, match="unknown parameter of own-policy 'cap'"):
        load_policy("own-policy(cap=3)")


def test_importing_the_package_does_not_import_the_policies():
    import subprocess

    code = "import sys, burstenv; print('burstenv.policies' in sys.modules, 'numba' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
