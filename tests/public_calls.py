"""One right call of every public name, from which ``test_public_misuse.py`` makes wrong ones."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

import burstenv
from burstenv.config import read_yaml, shipped
from burstenv.envs.scenario import load_scenario
from burstenv.workload import SPLITS
from burstenv.workload.shaping.selection import SelectConfig
from burstenv.workload.trace import COLUMNS


class World:
    """Small objects for right calls."""

    def __init__(self, small: dict[str, Any], folder: Any):
        self.folder, self.values = folder, small
        self.scenario = load_scenario(small)
        single = read_yaml(shipped("scenarios")["one-replica"])
        single["episode"]["duration_s"], single["capacity_per_s"] = 8, dict.fromkeys(SPLITS, 4.0)
        self.single = load_scenario(single)
        self.trace = burstenv.Trace.from_columns([0.0, 1.0, 2.5, 4.0], [10, 20, 30, 40], [5, 6, 7, 8])
        self.file = folder / "trace.csv"
        burstenv.write_plain(self.trace, self.file)
        self.requests = burstenv.request_array(np.array([0.0, 0.5]), np.array([30, 40]), np.array([5, 6]))
        self.plan = burstenv.EvaluationPlan(scenario=self.scenario, loads=(1.0,), episodes=2)
        self._result: Any = None
        self.rng = np.random.default_rng(0)
        self.policy = burstenv.load_policy("always/jsq/vllm")

    def batch(self, kind: str = "EnvironmentBatch") -> Any:
        batch = getattr(burstenv, kind)(2, scenario=self.single if kind == "IterationBatch" else self.scenario)
        for i in range(2):
            batch.reset(i, self.rng, {"load": 1.0})
        return batch

    def file_workload(self) -> Any:
        file = self.folder / "workload.yaml"
        file.write_text(f"kind: file\npath: {self.file}\n")
        return file

    def policy_file(self) -> Any:
        file = self.folder / "mine.py"
        code = "from burstenv import routing_rule\n\n\n@routing_rule(name='misuse-first')\ndef first(view):\n"
        file.write_text(code + "    return 0\n")
        return file

    def result(self) -> Any:
        if self._result is None:
            self._result = burstenv.evaluate(self.plan, progress=False)
        return self._result

    def result_file(self) -> Any:
        self.result().to_json(self.folder / "result.json")
        return self.folder / "result.json"

    def records(self) -> np.ndarray:
        cluster = self.scenario.make_cluster(1, 2)
        cluster.load(0, self.requests)
        while cluster.next_epoch(0) >= 0:
            cluster.decide(0, burstenv.ADMIT, 0, 0)
        return cluster.records(0)

    def env(self, **given: Any) -> gym.Env:
        return gym.make("BurstGPT-v0", scenario=self.scenario, load=1.0, **given)

    def vector(self, **given: Any) -> gym.vector.VectorEnv:
        return gym.make_vec("BurstGPT-v0", 2, scenario=self.scenario, load=1.0, **given)


def of_batch(kind: str) -> dict[str, Callable[[World], tuple[Callable[..., Any], dict[str, Any]]]]:
    """Right calls of the methods of a batch."""
    methods: dict[str, Callable[[World, Any], dict[str, Any]]] = {
        "reset": lambda w, b: {"i": 0, "rng": w.rng, "options": {"load": 1.0}},
        "set_default": lambda w, b: {"i": 0, "name": "load", "value": 1.0},
        "start": lambda w, b: {"i": 0, "requests": w.requests, "seed": 0, "description": {}},
        "play": lambda w, b: {"i": 0, "drawn": w.scenario.episode("train", 0, 10.0)[1], "seed": 0, "description": {}},
        "capacity_per_s": lambda w, b: {"split": "train"},
        "restore_state": lambda w, b: {"snapshot": b.clone_state()},
        "shaped": lambda w, b: {"flat": b.observations},
        "put_links": lambda w, b: {"i": 0, "links": b.links_of(0)},
        **{name: lambda w, b: {"i": 0} for name in (
            "counts", "describe", "episode_metrics", "forget_policies", "links_of", "metrics_age_s", "num_requests",
            "reward_of", "without_request", "in_force")},
        **{name: lambda w, b: {} for name in (
            "action_names", "action_space", "clone_state", "observation_names", "observation_space",
            "request_at_gateway", "step")},
    }  # fmt: skip
    if kind == "EnvironmentBatch":
        methods["policy_action"] = lambda w, b: {"i": 0, "policy": w.policy}
        methods["fast_forward"] = lambda w, b: {"i": 0, "policy": w.policy, "decisions": 2}
    if kind == "IterationBatch":
        methods["queue"] = lambda w, b: {"i": 0}

    def call(name: str) -> Callable[[World], tuple[Callable[..., Any], dict[str, Any]]]:
        def made(w: World) -> tuple[Callable[..., Any], dict[str, Any]]:
            batch = w.batch(kind)
            return getattr(batch, name), methods[name](w, batch)

        return made

    return {f"{kind}.{name}": call(name) for name in methods}


def plain(name: str, /, **given: Any) -> Callable[[World], tuple[Callable[..., Any], dict[str, Any]]]:
    """A right call of a function or a class; arguments are values, or functions of the world."""

    def made(w: World) -> tuple[Callable[..., Any], dict[str, Any]]:
        values = {key: value(w) if inspect.isfunction(value) else value for key, value in given.items()}
        owner, _, method = name.partition(".")
        found = getattr(burstenv, owner)
        if method:
            target = values.pop("self_")
            found = getattr(target, method)
        return found, values

    return made


def trace(w: World) -> Any:
    return w.trace


def scenario(w: World) -> Any:
    return w.scenario


def result(w: World) -> Any:
    return w.result()


def _select() -> Any:
    return SelectConfig(days=(0, 1))


def _recorder(w: World) -> Any:
    recorder = burstenv.TimelineRecorder(["a"])
    recorder.note(w.batch().cluster.state)
    return recorder


def _latency() -> Any:
    return str(next(iter(shipped("latency").values())))


def _cluster_config() -> Any:
    return burstenv.ClusterConfig(**read_yaml(shipped("clusters")["default"]))


def _timeline(w: World) -> Any:
    return burstenv.play(w.env(decide="batching"), lambda observation, info: 0, seed=0)


# Right calls stand in other tests.
LONG = {"evaluate", "tune", "train", "load_agent", "export_agent", "export_ensemble", "LearnedAgent"}
BATCHES = ("EnvironmentBatch", "IntervalBatch", "IterationBatch")
SPEC = {"name": "a", "model": "m", "hardware": "h", "tensor_parallel": 1, "num_blocks": 10, "block_size": 16}
VALID: dict[str, Callable[[World], tuple[Callable[..., Any], dict[str, Any]]]] = {
    "compress": plain("compress", trace=trace, factor=2.0),
    "thin": plain("thin", trace=trace, share=1.0, seed=0),
    "superpose": plain("superpose", trace=trace, copies=2.0, seed=0, window_s=2.0),
    "scale_to_rate": plain(
        "scale_to_rate", trace=trace, rate_per_s=2.0, scaling="superpose", seed=0, duration_s=lambda w: 4.0
    ),
    "mix": plain("mix", traces=lambda w: [w.trace, w.trace], rates_per_s=None, shares=None, seed=0),
    "select": plain("select", trace=trace, what=lambda w: _select()),
    "convert": plain(
        "convert", trace=trace, path=lambda w: w.folder / "a.csv", to="plain", exact_times=False, block_tokens=None
    ),
    "read_trace": plain(
        "read_trace", path=lambda w: w.file, jitter_seed=0, columns=None, time_unit=None, sort=False, cache=False
    ),
    "write_plain": plain("write_plain", trace=trace, path=lambda w: w.folder / "b.csv"),
    "write_burstgpt": plain("write_burstgpt", trace=trace, path=lambda w: w.folder / "c.csv", exact_times=True),
    "write_mooncake": plain("write_mooncake", trace=trace, path=lambda w: w.folder / "d.jsonl", block_tokens=512),
    "generate": plain("generate", config=lambda w: burstenv.load_workload().generator, days=1, seed=0),
    "load_workload": plain("load_workload", name="burstgpt-default"),
    "load_trace": plain("load_trace", config=lambda w: burstenv.load_workload(str(w.file_workload()))),
    "load_cluster": plain("load_cluster", name="default"),
    "load_latency": plain("load_latency", name=lambda w: _latency()),
    "resolve_cluster": plain("resolve_cluster", cluster=lambda w: _cluster_config()),
    "load_scenario": plain("load_scenario", name=lambda w: w.values, trace=None),
    "load_policy": plain("load_policy", text="always/jsq/vllm"),
    "load_policy_file": plain("load_policy_file", path=lambda w: w.policy_file()),
    "load_tuned": plain("load_tuned", name="default", scenario="default"),
    "load_agent_config": plain("load_agent_config", name="ppo"),
    "shipped_agents": plain("shipped_agents"),
    "register_envs": plain("register_envs"),
    "request_array": plain(
        "request_array", arrival_s=lambda w: np.array([0.0]), prompt_tokens=lambda w: np.array([3]),
        output_tokens=lambda w: np.array([3]), ttft_slo_s=1.0, tpot_slo_s=1.0,
    ),
    "draw_clients": plain(
        "draw_clients", config=lambda w: burstenv.ClientsConfig(), requests=lambda w: w.requests, seed=0, previous=None,
        think_s=None, upstream_failed=None, horizon_s=10.0,
    ),
    "episode_metrics": plain("episode_metrics", records=lambda w: w.records(), duration_s=3.0),
    "course": plain("course", records=lambda w: w.records(), duration_s=3.0),
    "prompt_bucket": plain("prompt_bucket", prompt_tokens=lambda w: np.array([3, 700])),
    "simulate": plain(
        "simulate", trace=trace, cluster=None, policy="always/jsq/vllm", scenario=scenario, speed=1.0, oversize=None,
        seed=0, progress=None, rate_per_s=None, load=None, utilisation=None, scaling=None, duration_s=None,
        timeline=False,
    ),
    "play": plain("play", env=lambda w: w.env(decide="batching"), act=lambda w: lambda o, i: 0, seed=0),
    "write_timeline": plain("write_timeline", timeline=lambda w: _timeline(w), path=lambda w: w.folder / "t.html"),
    "TimelineRecorder": plain("TimelineRecorder", names=lambda w: ["a"], i=0),
    "TimelineRecorder.every": plain(
        "TimelineRecorder.every", self_=lambda w: burstenv.TimelineRecorder(["a"]), num_requests=3
    ),
    "TimelineRecorder.note": plain(
        "TimelineRecorder.note", self_=lambda w: burstenv.TimelineRecorder(["a"]),
        state=lambda w: w.batch().cluster.state,
    ),
    "TimelineRecorder.finish": plain(
        "TimelineRecorder.finish", self_=lambda w: _recorder(w), records=lambda w: w.records(),
        title="t", facts=lambda w: {},
    ),
    "policy": plain("policy", name="misuse-a", parameters=None, source="", modes=(), ticks=False, oracle=False),
    "routing_rule": plain("routing_rule", name="misuse-b", parameters=None, source="", oracle=False, floor=False),
    "admission_rule": plain("admission_rule", name="misuse-c", parameters=None, source="", oracle=False, floor=False),
    "EvaluationPlan": plain(
        "EvaluationPlan", scenario=scenario, trace=None, split="test", loads=(), episodes=3, policies=(),
        reference=None, chosen=None, groups=None, tuning=(), unused=(), capacity_split=None, command=None,
    ),
    "TuningPlan": plain(
        "TuningPlan", template="all", loads=(), trials=2, episodes=2, split="validation", metric="score", seed=0
    ),
    "EvaluationPlan.check": plain("EvaluationPlan.check", self_=lambda w: burstenv.EvaluationPlan()),
    "TuningPlan.check": plain("TuningPlan.check", self_=lambda w: burstenv.TuningPlan()),
    "Trace": lambda w: (burstenv.Trace, {name: getattr(w.trace, name) for name in COLUMNS}),
    "Trace.between": plain("Trace.between", self_=trace, start_s=0.0, end_s=2.0),
    "Trace.shift": plain("Trace.shift", self_=trace, offset_s=1.0),
    "Trace.where": plain("Trace.where", self_=trace, mask=lambda w: np.ones(4, bool)),
    "Trace.describe": plain("Trace.describe", self_=trace),
    "Trace.to_pandas": plain("Trace.to_pandas", self_=trace),
    "Trace.from_pandas": plain("Trace.from_pandas", self_=trace, frame=lambda w: w.trace.to_pandas()),
    "Trace.from_columns": plain(
        "Trace.from_columns", self_=trace, arrival_s=lambda w: [0.0, 1.0], prompt_tokens=lambda w: [1, 2],
        output_tokens=lambda w: [1, 2],
    ),
    "Scenario": plain("Scenario", config=lambda w: w.scenario.config, trace=None, measure=False),
    "Scenario.capacity_per_s": plain("Scenario.capacity_per_s", self_=scenario, split="test"),
    "Scenario.capacity_on": plain(
        "Scenario.capacity_on", self_=scenario, trace=lambda w: w.scenario.trace, split="test"
    ),
    "Scenario.sampler": plain("Scenario.sampler", self_=scenario, split="test"),
    "Scenario.episode": plain("Scenario.episode", self_=scenario, split="test", seed=0, rate_per_s=9.0),
    "Scenario.make_cluster": plain(
        "Scenario.make_cluster", self_=scenario, num_envs=1, num_requests=8, modes=None, max_request_tokens=None
    ),
    "Scenario.requests_from": plain(
        "Scenario.requests_from", self_=scenario, drawn=lambda w: w.scenario.episode("test", 0, 9.0)[1], seed=0,
        privileged=False,
    ),
    "Scenario.write_requests": plain(
        "Scenario.write_requests", self_=scenario, requests=lambda w: w.scenario.episode("test", 0, 9.0)[0],
        drawn=lambda w: w.scenario.episode("test", 0, 9.0)[1], seed=0, privileged=False,
    ),
    "Scenario.clients_of": plain(
        "Scenario.clients_of", self_=scenario, requests=lambda w: w.scenario.episode("test", 0, 9.0)[0],
        drawn=lambda w: w.scenario.episode("test", 0, 9.0)[1], seed=0,
    ),
    "Scenario.lengths": plain("Scenario.lengths", self_=scenario),
    "Scenario.predictor_on": plain("Scenario.predictor_on", self_=scenario, trace=trace),
    "ClientsConfig": plain("ClientsConfig", patience=None, retries=None, closed_loop=None),
    "ClusterConfig": plain("ClusterConfig", name="a", replicas=lambda w: _cluster_config().replicas, block_size=16),
    "ModeConfig": plain("ModeConfig", name="a", max_num_seqs=4, order="fcfs", headroom=0.1),
    "ScenarioConfig": plain(
        "ScenarioConfig", name="a", cluster="default", workload="burstgpt-default", load=1.0,
        slo=lambda w: w.values["slo"], modes=lambda w: ["vllm"],
    ),
    "ReplicaSpec": plain("ReplicaSpec", **SPEC, max_model_len=100, reserve_full_prompt=True,
                         default_max_num_batched_tokens=100, default_max_num_seqs=9,
                         latency=lambda w: w.scenario.specs[0].latency),
    "EnvironmentBatch": plain(
        "EnvironmentBatch", num_envs=1, scenario=lambda w: w.values, trace=None, split="train", load=1.0,
        decide=("admission",), admission="always", routing="jsq", batching=None, action="multi", observation="flat",
        reward="worth", privileged=False, num_threads=1,
    ),
    "IntervalBatch": plain("IntervalBatch", num_envs=1, interval_s=1.0, max_admission=3.0, scenario=scenario),
    "IterationBatch": plain("IterationBatch", num_envs=1, slots=4, batching=None, scenario=lambda w: w.single),
    **{name: call for kind in BATCHES for name, call in of_batch(kind).items()},
    "FlatAction": plain("FlatAction", env=lambda w: w.env()),
    "FlatActionVector": plain("FlatActionVector", env=lambda w: w.vector()),
    "FlatObservation": plain("FlatObservation", env=lambda w: w.env(observation="dict")),
    "FlatObservationVector": plain("FlatObservationVector", env=lambda w: w.vector(observation="dict")),
    "FrameHistoryVector": plain("FrameHistoryVector", env=lambda w: w.vector(), length=2),
    "SemiMDPDiscount": plain("SemiMDPDiscount", env=lambda w: w.env(), gamma_per_s=0.9, from_start=False),
    "SemiMDPDiscountVector": plain("SemiMDPDiscountVector", env=lambda w: w.vector(), gamma_per_s=0.9),
    "evaluate": plain(
        "evaluate", plan=lambda w: w.plan, agents=(), progress=False, workers=1, folder=None, ray=None
    ),
    "tune": plain("tune", scenario=scenario, plan=lambda w: burstenv.TuningPlan(), journal=None, workers=1),
    "train": plain(
        "train", config=lambda w: burstenv.load_agent_config("ppo"), scenario=scenario,
        out_dir=lambda w: w.folder / "r", seed=0, resume=False, progress=False, on_validation=None,
        ray=None,
    ),
    "load_agent": plain("load_agent", path="run", scenario=None),
    "export_agent": plain("export_agent", run="run", out="a.npz"),
    "export_ensemble": plain("export_ensemble", trained=("run", "other"), out="a.npz", agree=None, fallback=None),
    "LearnedAgent": plain(
        "LearnedAgent", config=lambda w: burstenv.load_agent_config("ppo"), policy=None, sizes=(2,), name="a",
        first_mode="vllm", description=None,
    ),
    "write_report": plain("write_report", result=result, folder=lambda w: w.folder / "report", training=None),
    "write_leaderboard": plain(
        "write_leaderboard", results=lambda w: [w.result()], path=lambda w: w.folder / "board.html", defaults=None,
        files=(),
    ),
    "headline": plain("headline", result=result), "summary_lines": plain("summary_lines", result=result),
    "EvaluationResult.policy": plain("EvaluationResult.policy", self_=result, name="always/jsq/vllm"),
    "EvaluationResult.best_at": plain("EvaluationResult.best_at", self_=result, load=1.0),
    "EvaluationResult.ranking": plain("EvaluationResult.ranking", self_=result, load=1.0),
    "EvaluationResult.to_json": plain("EvaluationResult.to_json", self_=result, path=None),
    "EvaluationResult.from_json": plain("EvaluationResult.from_json", self_=result, path=lambda w: w.result_file()),
    "EvaluationResult.difference": plain(
        "EvaluationResult.difference", self_=result, policy="always/jsq/vllm", load=1.0, against="best",
        metric="attainment",
    ),
    "EvaluationResult.group": plain(
        "EvaluationResult.group", self_=result, policy="always/jsq/vllm", load=1.0, group="api"
    ),
    **{f"EvaluationResult.{name}": plain(
        f"EvaluationResult.{name}", self_=result, policy="always/jsq/vllm", load=1.0,
    ) for name in ("summary_of", "distribution_of", "rank_of")},
    "SB3VecEnv": plain(
        "SB3VecEnv", batch=lambda w: w.batch(), seed=0, reward_scale=1.0, stagger=None, max_episode_steps=None,
        flat_action=False, group=1, scale=None,
    ),
}  # fmt: skip
