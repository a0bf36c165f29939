"""The headroom of a scenario: from a default to the best composite, foresight and the bound.

Steps named after a judgement say what makes the room: the best composite that lacks it, tuned with the same budget.

Every policy plays the same held-out episodes at the scenario's own load, and every step is a paired difference with an
interval by blocks of days. ``best`` is the policy tuned and shipped for the scenario, otherwise the best of
``CANDIDATES`` on validation episodes. Foresight is look-ahead in the true future over the best composite. Its
score is achievable, so the measured headroom is never too large; a better use of foresight may find more. Where
replicas fail, foresight is the best composite on validation episodes that may know faults and speeds as they are, but
not what is to come: the best composite, with the rule ``oracle-health`` or without, or one tuned anew.
``configs/headroom/`` holds the measurements of the shipped scenarios, the source of docs/scenarios.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from burstenv.config import Config, schema_line, shipped
from burstenv.config import load as load_config
from burstenv.envs.scenario import Scenario
from burstenv.envs.scenario_config import ScenarioConfig
from burstenv.errors import BurstenvError
from burstenv.evaluation.bound.upper_bound import upper_bound
from burstenv.evaluation.episode_lists import fixed_count
from burstenv.evaluation.episodes import draw_episode
from burstenv.evaluation.statistics.intervals import paired_difference
from burstenv.evaluation.tuning.judgements import judgement
from burstenv.evaluation.tuning.scalers import SCALER_TRIALS, tune_scaler, without_scaler
from burstenv.evaluation.tuning.scorer import Scorer, headline
from burstenv.evaluation.tuning.search import TRIALS, TuningPlan, tune
from burstenv.evaluation.tuning.tuned_policies import scenario_digest, shipped_tuned
from burstenv.evaluation.workers import run_tasks
from burstenv.files import write_atomic
from burstenv.policies import load_policy, parse_composite
from burstenv.policies.composite import with_health

DEFAULTS = ("always/round-robin/vllm", "always/jsq/vllm")
CANDIDATES = (
    "always/expected-ttft/edf-256",
    "kv-threshold/least-kv/edf-512",
    "predicted-deadline/lmetric/edf-256",
    "early-rejection/expected-ttft/edf-256",
    "size-aware-kv/expected-ttft/edf-256",
    "size-aware-kv/prefix-aware/edf-256",
    "size-aware-kv(limit=1.666,prompt=0.04456,output=0.5339)/expected-ttft/edf-256",
    "size-aware-kv(limit=1.557,prompt=0.219,output=0.3951)/expected-ttft/sarathi-256",
)
FOLDER = "headroom"  # of configs/, by scenario
HORIZON_S = 20.0
PASSES = 1
CLAIRVOYANT = "oracle-scaling"  # foresight where replicas scale
WITHOUT = "without "
SHOWN = ("round-robin", "jsq", "best", "foresight", "bound")  # in a table of many scenarios
REPLICAS = 4  # tried by foresight for each request
KNOWING = ("*/*+oracle-health/*", "*/oracle-speed+oracle-health/*")  # templates of composites that know faults


class Step(Config):
    """Score of one policy, and its gain over the previous one.

    Attributes:
        name: ``round-robin``, ``jsq``, ``best``, ``without locality`` and so on, ``foresight`` or ``bound``.
        policy: Its policy; empty for the bound.
        score: By worth, mean over episodes.
        attainment: By count.
        token_weighted_attainment: By tokens.
        net: The score less the price of the GPU-hours, where replicas scale, or with the worth of the tokens trained,
            where they fine-tune; gains are then of it.
        gpu_hours: Of an episode, where replicas scale.
        background_tokens_per_s: Trained, where replicas fine-tune.
        gain: Mean paired difference from the step before; from round robin for the first three, and for those without
            a judgement from ``best``.
        low: Lower end of the gain's 95 % interval; None for the bound, and with too few days.
        high: Upper end.
    """

    name: str
    policy: str
    score: float
    attainment: float | None = None
    token_weighted_attainment: float | None = None
    net: float | None = None
    gpu_hours: float | None = None
    background_tokens_per_s: float | None = None
    gain: float
    low: float | None
    high: float | None

    @property
    def headline(self) -> float:
        """What gains are of: ``net`` where there is one, otherwise the score."""
        return self.score if self.net is None else self.net

    @property
    def beside(self) -> str:
        """Its shares by count and by tokens, which stand beside the score.

        Where replicas scale the score and GPU-hours, where they fine-tune the score and tokens trained.
        """
        if self.background_tokens_per_s is not None:
            return f"({100 * self.score:.1f} %, {self.background_tokens_per_s:,.0f} tokens/s)"
        if self.net is not None:
            return f"({100 * self.score:.1f} %, {self.gpu_hours:.2f} GPU-h)"
        if self.attainment is None or self.token_weighted_attainment is None:
            return ""
        return f"({100 * self.attainment:.1f} %, {100 * self.token_weighted_attainment:.1f} %)"

    @property
    def shown(self) -> str:
        """The gain in points, with its interval."""
        if self.low is None or self.high is None:
            return f"{100 * self.gain:+.1f}" + ("" if self.name == "bound" else " (too few days)")
        return f"{100 * self.gain:+.1f} [{100 * self.low:+.1f}, {100 * self.high:+.1f}]"


class Headroom(Config):
    """The measured headroom.

    Attributes:
        scenario: Name of the scenario.
        version: Its version.
        scenario_sha256: Digest of the scenario's configuration.
        split: Split of the episodes.
        load: Share of capacity.
        episodes: Number of episodes, from seed 0 on.
        horizon_s: Horizon of foresight [s].
        passes: Plans per episode.
        trials: Budget of the composite that may know faults; None: there are none, and foresight looks ahead.
        tuned: Whether ``best`` was tuned for the scenario.
        unused: Reason why a shipped composite is not ``best``; empty if it is.
        steps: From the defaults up.
    """

    scenario: str
    version: int
    scenario_sha256: str
    split: str
    load: float
    episodes: int
    horizon_s: float
    passes: int
    trials: int | None = None
    tuned: bool
    unused: str = ""
    steps: tuple[Step, ...]

    @property
    def room(self) -> Step:
        """Gain of foresight over the best composite."""
        return self.by_name["foresight"]

    @property
    def by_name(self) -> dict[str, Step]:
        """The steps by name."""
        return {step.name: step for step in self.steps}

    @property
    def command(self) -> str:
        """The command that measures it again."""
        return (
            f"burstenv scenarios {self.scenario} --headroom --episodes {self.episodes} "
            + (
                f"--horizon {self.horizon_s:g} --passes {self.passes}"
                if self.trials is None
                else f"--trials {self.trials}"
            )
            + "".join(f" --without {name.removeprefix(WITHOUT)}" for name in self.by_name if name.startswith(WITHOUT))
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it in plain values."""
        return self.model_dump(mode="json")

    def write(self, path: str | Path) -> None:
        """Write it as a file, atomically."""
        text = yaml.safe_dump(self.to_dict(), sort_keys=False, width=110, default_flow_style=None)
        write_atomic(Path(path), schema_line(FOLDER, Path(path)) + text)

    def lines(self) -> list[str]:
        """Return it as lines of text."""
        tuned = "tuned" if self.tuned else "best of a few, not tuned"
        head = f"{self.scenario} (v{self.version}), {self.episodes} {self.split} episodes at load {self.load:g}"
        lines = [self.unused, head] if self.unused else [head]
        for step in self.steps:
            what = step.policy if step.name != "best" else f"{step.policy} ({tuned})"
            lines.append(
                f"  {step.name:<16} {100 * step.headline:5.1f} %  {step.shown:<22} {step.beside:<20} {what}".rstrip()
            )
        return lines


@dataclass(frozen=True)
class _Task:
    """One episode under one policy; the bound for an empty one."""

    policy: str
    seed: int


class _Runner:
    """Runs tasks of one scenario; sent to workers."""

    def __init__(self, scenario: Scenario, split: str, load: float):
        self.scenario, self.split, self.load = scenario, split, load

    def __call__(self, task: _Task) -> tuple[_Task, dict[str, float], int]:
        """Return the task with its shares by ``METRICS`` and the day of its episode."""
        if task.policy:
            scorer = Scorer(self.scenario, self.split, self.load, [task.seed])
            return task, scorer.score(load_policy(task.policy)).means(), int(scorer.days[0])
        rate_per_s = self.load * self.scenario.capacity_per_s(self.split)
        episode = draw_episode(self.scenario, self.split, self.load, task.seed, rate_per_s)
        bound = upper_bound(self.scenario.make_cluster(), episode.requests, episode.requests["worth"])
        return task, {"score": bound.share}, episode.day


class _Tuner:
    """Tunes composites without a judgement; sent to workers."""

    def __init__(self, scenario: Scenario, load: float, trials: int):
        self.scenario, self.load, self.trials = scenario, load, trials

    def __call__(self, without: str) -> tuple[str, str]:
        """Return the judgement and the best composite without it."""
        episodes = fixed_count(self.scenario.config, "validation")
        plan = TuningPlan(loads=[self.load], trials=self.trials, episodes=episodes, without=without)
        return without, tune(self.scenario, plan, progress=False).at(self.load)


def best_composite(scenario: Scenario, load: float, episodes: int) -> tuple[str, bool, str]:
    """Return the composite tuned for a scenario and load, otherwise the best candidate on validation.

    Returns:
        Its name; whether it was tuned; and the reason why a shipped one was not used, empty without one.
    """
    tuned, unused = shipped_tuned(scenario.config, scenario.trace)
    if tuned is not None:
        return tuned.at(load), True, ""
    scorer = Scorer(scenario, "validation", load, range(episodes))
    known = [p for p in CANDIDATES if load_policy(p).modes[0] in scenario.mode_names]
    if not known:
        known = [f"{p.rpartition('/')[0]}/{scenario.mode_names[0]}" for p in CANDIDATES]
    return max(known, key=lambda policy: scorer.score(load_policy(policy)).value(headline(scenario))), False, unused


def _knowing_composite(scenario: Scenario, load: float, trials: int, best: str) -> str:
    """Return the best composite that may know faults and speeds; the templates share the trials."""
    episodes = fixed_count(scenario.config, "validation")
    found = [best, *(with_health(best, f"oracle-health(factor={factor})") for factor in (1.5, 5))]
    for template in KNOWING:
        share = max(1, trials // len(KNOWING))
        plan = TuningPlan(template=template, loads=[load], trials=share, episodes=episodes)
        found.append(tune(scenario, plan, progress=False).at(load))
    scorer = Scorer(scenario, "validation", load, range(episodes))
    return max(found, key=lambda policy: scorer.score(load_policy(policy)).value("score"))


def _clairvoyant_scaler(scenario: Scenario, load: float, best: str) -> str:
    """Return the best composite with the scaling rule that knows the arrivals to come, tuned as the others."""
    front = without_scaler(parse_composite(best))
    tuned, _ = shipped_tuned(scenario.config, scenario.trace)
    for one in () if tuned is None or load != scenario.config.load else tuned.scalers or ():
        if one.policy.startswith(f"{front}/{CLAIRVOYANT}"):
            return one.policy
    plan = TuningPlan(
        template=f"{front}/{CLAIRVOYANT}", loads=[load], trials=SCALER_TRIALS,
        episodes=fixed_count(scenario.config, "validation"),
    )  # fmt: skip
    return tune_scaler(scenario, plan).policy


def measure_headroom(
    scenario: Scenario,
    episodes: int = 9,
    split: str = "test",
    load: float | None = None,
    workers: int = 1,
    horizon_s: float = HORIZON_S,
    passes: int = PASSES,
    progress: Callable[[int, int], None] | None = None,
    without: Sequence[str] = (),
    trials: int = TRIALS,
) -> Headroom:
    """Measure a scenario's headroom.

    Args:
        scenario: The scenario.
        episodes: Number of episodes, from seed 0 on.
        split: Their split.
        load: Share of capacity; None: the scenario's own.
        workers: Processes; the numbers do not depend on them.
        horizon_s: Horizon of foresight [s].
        passes: Plans per episode.
        progress: Called with the tasks done and the total.
        without: Judgements, of ``judgements.JUDGEMENTS``, to tune and play the best composite without.
        trials: Budget of such a search, and of that for a composite that knows faults.

    Raises:
        BurstenvError: On fewer than one episode, an unknown judgement, or an error of a policy.
    """
    for name in without:
        judgement(name)
    if episodes < 1:
        raise BurstenvError(f"episodes must be at least 1, got {episodes}")
    config = scenario.config
    load = config.load if load is None else load
    best, tuned, unused = best_composite(scenario, load, episodes)
    mode = "vllm" if "vllm" in scenario.mode_names else scenario.mode_names[0]
    defaults = [f"{policy.rpartition('/')[0]}/{mode}" for policy in DEFAULTS]
    foresight = f"oracle-lookahead(horizon_s={horizon_s:g},passes={passes},replicas={REPLICAS}):{best}"
    if scenario.scaling is not None:
        foresight = _clairvoyant_scaler(scenario, load, best)
    elif scenario.faults is not None:
        foresight = _knowing_composite(scenario, load, trials, best)
    runner = _Runner(scenario, split, load)
    if workers > 1 or without:
        runner(_Task(best, 0))  # compiled and drawn before workers are forked
    blind = dict(run_tasks(_Tuner(scenario, load, trials), list(dict.fromkeys(without)), workers))
    named = {"round-robin": defaults[0], "jsq": defaults[1], "best": best}
    named |= {f"{WITHOUT}{name}": blind[name] for name in dict.fromkeys(without)}
    named["foresight"] = foresight
    # Without a bound where arrivals depend on the policy, and none is known of worth less the price of GPU-hours, or
    # with that of tokens trained.
    if config.clients.closed_loop is None and headline(scenario) == "score":
        named["bound"] = ""
    # The slow ones first: a slow task at the end would leave the other workers idle.
    slow_first = [foresight, *(policy for policy in dict.fromkeys(named.values()) if policy != foresight)]
    tasks = [_Task(policy, seed) for policy in slow_first for seed in range(episodes)]
    found: dict[str, dict[int, dict[str, float]]] = {policy: {} for policy in named.values()}
    days = np.zeros(episodes, np.int64)
    for done, (task, shares, day) in enumerate(run_tasks(runner, tasks, workers), 1):
        found[task.policy][task.seed] = shares
        days[task.seed] = day
        if progress is not None:
            progress(done, len(tasks))
    return Headroom(
        scenario=config.name, version=config.version, scenario_sha256=scenario_digest(config), split=split, load=load,
        episodes=episodes, horizon_s=horizon_s, passes=passes, trials=None if scenario.faults is None else trials,
        tuned=tuned, unused=unused,
        steps=_steps(named, found, days),
    )  # fmt: skip


def _steps(
    named: dict[str, str], found: dict[str, dict[int, dict[str, float]]], days: NDArray[np.int64]
) -> tuple[Step, ...]:
    of = "net" if "net" in found[named["best"]][0] else "score"
    scores = {name: np.array([found[p][k][of] for k in range(len(days))]) for name, p in named.items()}
    before = "round-robin"
    steps = []
    for name, policy in named.items():
        over = "best" if name.startswith(WITHOUT) else before
        gain = paired_difference(scores[name], scores[over], days)
        before = name if name in ("best", "foresight") else before
        low, high = (None, None) if name == "bound" else (gain.low, gain.high)
        shares = {
            metric: float(np.mean([found[policy][k][metric] for k in range(len(days))])) for metric in found[policy][0]
        }
        steps.append(Step(name=name, policy=policy, **shares, gain=gain.mean, low=low, high=high))
    return tuple(steps)


def shipped_headroom(config: ScenarioConfig) -> Headroom | None:
    """Return the measurement of a shipped scenario; None without one for its present version."""
    if config.name not in shipped(FOLDER):
        return None
    found = load_config(Headroom, FOLDER, config.name)
    return found if found.scenario_sha256 == scenario_digest(config) else None


def table(measured: Sequence[Headroom]) -> list[str]:
    """Return many scenarios as a Markdown table."""
    lines = [
        "| scenario | load | round robin | JSQ | best composite | foresight | bound | room (95 %) |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for one in measured:
        steps = one.by_name
        cells = " | ".join(f"{100 * steps[name].headline:.1f}" if name in steps else "-" for name in SHOWN)
        lines.append(f"| {one.scenario} | {one.load:g} | {cells} | {one.room.shown} |")
    return lines
