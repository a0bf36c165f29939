"""docs/scenarios.md, made from the scenarios' YAML, the tuned composites and the measured headroom.

``python -m burstenv.evaluation.report.scenario_page [--check]`` writes it, or reports that it is stale.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from burstenv.cluster import ClusterConfig, resolve_cluster
from burstenv.cluster.background_config import BackgroundConfig
from burstenv.cluster.scaling.config import ScalingConfig
from burstenv.config import load, shipped
from burstenv.envs.scenario_config import ScenarioConfig
from burstenv.evaluation.bound.headroom import WITHOUT, Headroom, shipped_headroom
from burstenv.evaluation.tuning.judgements import JUDGEMENTS
from burstenv.evaluation.tuning.tuned_policies import FOLDER as TUNED
from burstenv.evaluation.tuning.tuned_policies import TunedPolicies, TunedPolicy, scenario_digest
from burstenv.files import write_atomic
from burstenv.policies import parse_composite

PAGE = Path("docs/scenarios.md")
_INTRODUCTION = """\
# The scenarios

A scenario is a task: cluster, traffic, load, objectives and clients, named and versioned. Each is a YAML file in
`configs/scenarios/`; results of different versions are not comparable. `make docs` makes this page from those files.

**Load** is a multiple of *capacity*, the rate at which `always/jsq/vllm` reaches 90 % attainment (`burstenv scenarios
NAME --capacity` measures it on each split). That policy fills slow replicas as
far as fast ones and knows no prompt lengths, so a good router still serves most requests in time at loads above 1.
Scenarios of version 3 know what a router in front of vLLM knows: its own log, always fresh, and metrics every 0.1 s
([what a gateway knows](gateway.md)). `blind` and `stale` know less, and say so.

**Episodes** are fixed: for each scenario `configs/episodes/` lists 18 validation and 27 test episodes with a digest of
their requests. `evaluate`, `tune` and the validation of agents use these, and say so if a changed generator or sampler
gives others.

**Tuned composites** are data, too: `configs/tuned/` holds the best composite found on the validation episodes at each
load that it names. Most searches had 600 trials, the shortest 40; the tables below say how many. `make tuned` searches
all of them again and draws the episode lists.
"""


_HEADROOM = """\
## Headroom

The headroom is the possible gain, before and after tuning of heuristics. Every policy plays the same test episodes at
the scenario's load: round robin with vLLM's defaults, the best composite tuned on validation days, and *foresight*,
that composite improved by simulation of each choice in the true future ([`oracle-lookahead`](lookahead.md)). The
score of foresight is achievable, so the headroom is at least its gain; no policy exceeds the *bound*
(`evaluation/bound/upper_bound.py`). Where replicas [fail](faults.md), foresight is the best composite that may know
faults and speeds (`oracle-health`, `oracle-speed`), and not what is to come; `oracle-lookahead` reaches more there.
Scores in %, in brackets attainment and token-weighted attainment; gains in points of the score, 95 % intervals by days.

Where replicas [fine-tune in the slack](background.md), gains are of the *net*, the score with the worth of the tokens
trained; in brackets score and tokens per second.

Where replicas [scale](scaling.md), the figures are *net*: the score less the scenario's price of the GPU-hours, as a
share of the offered worth, in brackets score and GPU-hours of an episode. Foresight is then the best composite with a
scaling rule that knows the arrivals to come, `oracle-scaling`, tuned as the others, and no bound is known.
"""
BESIDE = "attainment, by tokens"
ROOM = 0.05  # required between the best composite and foresight in at least half of the suite


def page() -> str:
    """Return the page."""
    configs = [load(ScenarioConfig, "scenarios", name) for name in shipped("scenarios")]
    parts = [_INTRODUCTION, "## Overview\n", _overview(configs), _headroom(configs)]
    for config in configs:
        parts += [f"## {config.name}\n", f"{' '.join(config.description.split())}\n", _facts(config), _tuned(config)]
    return "\n".join(part for part in parts if part)


def _overview(configs: Sequence[ScenarioConfig]) -> str:
    rows = []
    for config in configs:
        found = _tuned_of(config)
        best = None if found is None else next((p for p in found.policies if p.load == config.load), None)
        capacity = "measured on first use" if config.capacity_per_s is None else f"{config.capacity_per_s['test']:.1f}"
        cells = [f"[{config.name}](#{config.name})", str(config.version), str(_replicas(config)), f"{config.load:g}"]
        if best is None:
            cells += [capacity, "-", "-", "-"]
        else:
            cells += [capacity, _percent(best.default_score), _percent(best.score), _beside(best)]
        rows.append(cells)
    head = ["scenario", "version", "replicas", "load", "capacity [1/s]", "`always/jsq/vllm`", "best tuned", BESIDE]
    note = "The last three columns are shares on the validation episodes, which also served the tuning.\n"
    return "\n".join([_table(head, rows), note])


def _headroom(configs: Sequence[ScenarioConfig]) -> str:
    found = [one for one in map(shipped_headroom, configs) if one is not None]
    if not found:
        return ""
    rows = [_room_of(one) for one in found]
    head = ["scenario", "episodes", "round robin", "best tuned", "foresight", "bound", "tuning adds", "foresight adds"]
    ahead = [one for one in found if one.trials is None]
    wide = sum(one.room.gain >= ROOM for one in ahead)
    missing = [config.name for config in configs if shipped_headroom(config) is None]
    without = f" Not measured: {', '.join(missing)}." if missing else ""
    lines = [
        f"{wide} of {len(ahead)} scenarios without faults have {100 * ROOM:g} points or more between the best tuned "
        f"composite and foresight.{without}\n",
        "Each scenario's section has the command of its row; with `--out configs/headroom` it writes the data of\n"
        "this table. `make headroom` measures all rows again, 9 episodes each.\n",
    ]
    return "\n".join([_HEADROOM, _table(head, rows), *lines, *_judgements(found)])


def _judgements(found: Sequence[Headroom]) -> list[str]:
    """Return the table of the best composites without a judgement; nothing without measurements."""
    names = [f"{WITHOUT}{name}" for name in JUDGEMENTS]
    rows = []
    for one in found:
        steps = one.by_name
        if any(name in steps for name in names):
            cells = [steps[name].shown if name in steps else "-" for name in (*names, "foresight")]
            rows.append([f"[{one.scenario}](#{one.scenario})", f"{100 * steps['best'].score:.1f}", *cells])
    if not rows:
        return []
    said = "; ".join(f"*{WITHOUT}{one.name}* {one.without}" for one in JUDGEMENTS.values())
    return [
        "What makes the room between a default and the best tuned composite: the same search, with the same budget, "
        f"without one judgement ({said}). Points of the score from the best tuned composite, on the same episodes.\n",
        _table(["scenario", "best tuned", *names, "foresight"], rows),
    ]


def _room_of(one: Headroom) -> list[str]:
    steps = one.by_name
    names = ("round-robin", "best", "foresight", "bound")
    shares = [
        f"{100 * steps[name].score:.1f} {steps[name].beside}".rstrip() if name in steps else "-" for name in names
    ]
    return [f"[{one.scenario}](#{one.scenario})", str(one.episodes), *shares, steps["best"].shown, one.room.shown]


def _facts(config: ScenarioConfig) -> str:
    episode, seen = config.episode, config.observation
    mix = "as in the trace" if episode.mix is None else ", ".join(f"{100 * v:g} % {k}" for k, v in episode.mix.items())
    cluster = config.cluster if isinstance(config.cluster, str) else config.cluster.name
    workload = config.workload if isinstance(config.workload, str) else "its own"
    lines = [
        f"- version {config.version}; cluster `{cluster}` ({_replicas(config)} replicas)",
        f"- workload `{workload}`, {mix}; episodes of {episode.duration_s:g} s",
        f"- worth: {config.worth}",
        f"- evaluated at load {config.load:g}, trained at {', '.join(f'{x:g}' for x in config.train_loads)}",
    ]
    if config.capacity_per_s is not None:
        lines.append("- capacity " + ", ".join(f"{v:g}/s ({k})" for k, v in config.capacity_per_s.items()))
    for name in config.class_names:
        slo = config.slo[name]
        if config.classes.by != "log-type" or episode.mix is None or episode.mix.get(name, 0.0) > 0.0:
            worth = "" if slo.value == 1.0 else f", value {slo.value:g}"
            worth += "" if slo.priority is None else f", priority {slo.priority}"
            lines.append(
                f"- {name}: TTFT {slo.ttft_base_s:g} s + {1000 * slo.ttft_per_token_s:g} ms per prompt token, TPOT "
                f"{1000 * slo.tpot_s:g} ms{worth}"
            )
    if config.tenants is not None:
        of = ", ".join(
            f"{name} {100 * tenant.share:g} %" if tenant.share else name for name, tenant in config.tenants.of.items()
        )
        lines.append(f"- tenants by {config.tenants.by}: {of or 'as they come'}")
    if config.flow is not None:
        lines.append(f"- a queue at the gateway; its rule where a policy names none: `{config.flow.rule}`")
    if seen.period_s > 0.0:
        sent = "adds the requests sent since" if seen.count_sent else "does not count the requests sent since"
        lines.append(f"- the router reads metrics every {seen.period_s:g} s, {seen.delay_s:g} s late, and {sent}")
    if seen.log:
        knows = "every token that it relays" if seen.relays else "when a connection closes, but no token"
        lines.append(f"- the router has its own log: what it sends, and {knows}")
    if config.gateways > 1:
        split = "in turn" if config.split == "evenly" else "by a hash of the session"
        lines.append(f"- {config.gateways} gateways, each with its own log; requests are split {split}")
    if config.clients.patience is not None:
        lines.append("- clients lose patience")
    if config.clients.retries is not None:
        retries = config.clients.retries
        lines.append(f"- clients retry up to {retries.max_retries} times after {' or '.join(retries.after)}")
    if config.scaling is not None:
        lines.append(_scaled(config.scaling, _replicas(config)))
    if config.background is not None:
        lines.append(_fine_tunes(config.background))
    if config.faults is not None:
        lines.append(f"- faults `{config.faults if isinstance(config.faults, str) else config.faults.name}`")
    measured = shipped_headroom(config)
    if measured is not None:
        lines.append(f"- headroom: `{measured.command}`")
    return "\n".join(lines) + "\n"


def _scaled(scaling: ScalingConfig, replicas: int) -> str:
    boot = f"{scaling.cold_start} cold starts"
    if not isinstance(scaling.cold_start, str):
        boot = f"cold starts of {scaling.cold_start:g} s"
    return (
        f"- {scaling.least} to {scaling.most or replicas} replicas serve, by default as `{scaling.rule}` asks for "
        f"every {scaling.control_period_s:g} s; {boot}; a GPU-hour costs {scaling.price_per_gpu_h:g} mean requests"
    )


def _fine_tunes(job: BackgroundConfig) -> str:
    wanted = "without an end" if job.tokens is None else f"of {job.tokens:,.0f} tokens"
    where = "a layer" if job.interruptible == "layer" else "a step"
    return (
        f"- replicas [fine-tune](background.md) in the slack, a job {wanted} in steps of {job.step_tokens:,} tokens, "
        f"by default as `{job.rule}` says; a request waits for the end of {where}; 1,000 tokens are worth "
        f"{job.worth_per_ktoken:g} mean requests"
    )


def _tuned_net(found: TunedPolicies, unit: str, brought: Callable[[TunedPolicy], str]) -> str:
    """Return the best composites by their net score, with what else they cost or brought."""
    rows = [
        [
            f"{p.load:g}", f"`{p.policy}`", _percent(p.default_net), _percent(p.net), _percent(p.score), brought(p),
            str(p.trials),
        ]
        for p in found.policies
    ]  # fmt: skip
    return _table(["load", "best tuned composite", "`always/jsq/vllm`, net", "net", "score", unit, "trials"], rows)


def _tuned(config: ScenarioConfig) -> str:
    found = _tuned_of(config)
    if found is None:
        return ""
    if config.background is not None:
        return _tuned_net(found, "trained tokens/s", lambda p: f"{p.background_tokens_per_s:,.0f}")
    if config.scaling is not None:
        return _tuned_scalers(found)
    rows = [
        [f"{p.load:g}", f"`{p.policy}`", _percent(p.default_score), _percent(p.score), _beside(p), str(p.trials)]
        for p in found.policies
    ]
    return _table(["load", "best tuned composite", "`always/jsq/vllm`", "score", BESIDE, "trials"], rows)


def _tuned_scalers(found: TunedPolicies) -> str:
    """Return the best composites where replicas scale, then every scaling rule beside the same other parts."""
    text = _tuned_net(found, "GPU-h", lambda p: f"{p.gpu_hours:.2f}")
    if not found.scalers:
        return text
    rows = []
    for p in found.scalers:
        knows = " (knows the arrivals to come)" if parse_composite(p.policy).oracle else ""
        rule = str(parse_composite(p.policy).scaling)
        rows.append([f"`{rule}`{knows}", _percent(p.net), _percent(p.score), f"{p.gpu_hours:.2f}", str(p.trials)])
    said = (
        f"\nEvery scaling rule, tuned alone beside the other parts of the best composite "
        f"({found.scalers[0].trials} trials each, the first with its published constants), on the same validation "
        f"episodes at load {found.scalers[0].load:g}:\n\n"
    )
    return text + said + _table(["scaling rule", "net", "score", "GPU-h", "trials"], rows)


def _tuned_of(config: ScenarioConfig) -> TunedPolicies | None:
    if config.name not in shipped(TUNED):
        return None
    found = load(TunedPolicies, TUNED, config.name)
    return found if found.scenario_sha256 == scenario_digest(config) else None


def _beside(policy: TunedPolicy) -> str:
    return f"{_percent(policy.attainment)}, {_percent(policy.token_weighted_attainment)}"


def _replicas(config: ScenarioConfig) -> int:
    cluster = load(ClusterConfig, "clusters", config.cluster) if isinstance(config.cluster, str) else config.cluster
    return len(resolve_cluster(cluster))


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100.0 * value:.1f} %"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def main(arguments: list[str]) -> int:
    """Write the page; with ``--check`` report whether it is stale."""
    text = page()
    old = not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text
    if "--check" in arguments:
        if old:
            print(f"{PAGE}: not up to date; run python -m burstenv.evaluation.report.scenario_page", file=sys.stderr)
        return int(old)
    if old:
        write_atomic(PAGE, text)
    print(PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
