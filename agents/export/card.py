"""The model card of an agent or an ensemble, made from its run's records, or its file, and its evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from burstenv.agents.agent import load_agent
from burstenv.agents.baseline import TUNED
from burstenv.agents.export.arrays import export_network
from burstenv.agents.run.run_folder import RunFolder
from burstenv.errors import BurstenvError
from burstenv.evaluation import EvaluationResult
from burstenv.evaluation.result import Row
from burstenv.policies.network.ensemble import EnsemblePolicy
from burstenv.policies.network.policy import DETERMINISTIC, PREFIX, SAMPLED, load_network_policy, way_of
from burstenv.pretrained import ENDING

POINTS = 100.0
MATTERS = 0.01  # a difference of a group smaller than this is not listed as a loss


class Subject(NamedTuple):
    """What a card tells of an agent itself.

    Attributes:
        name: Its name in evaluations that do not have it by that of its file.
        purpose: First sentence.
        decide: Its components.
        scenario: Name of the scenario of its training.
        training: Lines of the section on training.
        way: Its own kind of choice.
        use: Lines of the section on use.
    """

    name: str
    purpose: str
    decide: Sequence[str]
    scenario: str
    training: Sequence[str]
    way: str
    use: str


def card(run: str | Path, reports: Sequence[str | Path], name: str) -> str:
    """Return a model card in Markdown.

    Args:
        run: Run folder of ``burstenv train``, or the file of an ensemble.
        reports: Folders of ``burstenv evaluate`` (or their ``result.json``) that include the agent by its name
            (``agent:NAME``, or that of the run or file), with either kind of choice.
        name: Its name as a shipped agent.

    Raises:
        BurstenvError: If there is no such run or ensemble, or an evaluation does not include the agent.
    """
    subject = _of_ensemble(Path(run), name) if str(run).endswith(ENDING) else _of_run(run, name)
    known = tuple(dict.fromkeys((f"agent:{name}", subject.name)))
    results = []
    for report in reports:
        path = Path(report)
        result = EvaluationResult.from_json(path / "result.json" if path.is_dir() else path)
        results.append((path, result, _taking_part(result, known, path)))
    training = [*subject.training, *_fallbacks([(result, found[0]) for _, result, found in results])]
    parts = [f"# {name}", _summary(subject, results)]
    parts += ["## Training", "\n".join(training), "## Scores", _SCORES]
    parts += [_scores(result, found, subject.way) for _, result, found in results]
    parts += ["## Where it loses", _losses([(result, found) for _, result, found in results])]
    parts += ["## Use", subject.use]
    return "\n\n".join(part for part in parts if part) + "\n"


def _of_run(run: str | Path, name: str) -> Subject:
    """Return what a run says of its agent."""
    agent = load_agent(run)
    config, told = agent.config, agent.description
    bound = "" if config.network != "mlp" or config.scales else told["num_replicas"]
    own, other = ("sampled", DETERMINISTIC) if config.draws else ("deterministic", SAMPLED)
    lines = _training(agent, RunFolder(run).read_log())
    return Subject(
        agent.name, config.description, config.decide, told["scenario"], lines, own,
        _use(f"--policy agent:{name} --policy 'agent:{name}{other}'", told, bound),
    )  # fmt: skip


def _of_ensemble(file: Path, name: str) -> Subject:
    """Return what the file of an ensemble says of it."""
    policy = load_network_policy(f"{PREFIX}{file}")
    if not isinstance(policy, EnsemblePolicy):
        raise BurstenvError(f"{file}: is one network; a card is made of the run folder that it was exported from")
    told, vote = policy.network.description, policy.network.vote
    bound = told["num_replicas"] if policy.network.kind == "mlp" else ""
    weights = sum(array.size for member in policy.network.members for array in member.arrays.values())
    how, deciding = f"{len(vote.members)} agents that vote", "The majority always decides."
    if vote.loads is not None:
        loads = ", ".join(f"{load:g}" for load in vote.loads)
        how = f"{len(vote.members)} agents, by load"
        deciding = f"The member of the load nearest to the traffic decides: {loads}."
    elif vote.fallback is not None and vote.agree > 1:
        deciding = f"Where fewer than {vote.agree} members make the same choice, `{vote.fallback}` decides."
    lines = [
        f"- An ensemble of {len(vote.members)}: {', '.join(f'`{member.name}`' for member in vote.members)}.",
        f"- Network: {policy.network.kind}, {weights:,} actor weights together.",
        f"- {deciding}",
    ]
    if vote.known is not None:
        lines.append(f"- Clusters that it knows: {vote.known}. On all others `{vote.fallback}` decides everything.")
    return Subject(
        policy.name, how, policy.environment["decide"], told["scenario"], lines,
        "deterministic", _use(f"--policy agent:{name}", told, bound),
    )  # fmt: skip


def _fallbacks(results: Sequence[tuple[EvaluationResult, str]]) -> list[str]:
    """Return how often the rules of an ensemble decided; nothing for other agents."""
    shares = [
        f"{POINTS * share:.1f} % on {result.scenario} at load {load:g}"
        for result, name in results
        for load in result.loads
        if (share := result.summary_of(name, load).get("fallback_share")) is not None
    ]
    return [f"- Decisions that it left to these rules: {', '.join(shares)}."] if shares else []


_SCORES = (
    "Attainment on held-out episodes with 95 % intervals by blocks of days, the best heuristic of the same evaluation, "
    "and the paired difference in points."
)


def _taking_part(result: EvaluationResult, known: tuple[str, ...], path: Path) -> list[str]:
    """Return the agent's names in evaluations, its own kind of choice first."""
    ends = ("", SAMPLED, DETERMINISTIC)
    found = [
        f"{name}{end}" for end in ends for name in known if any(p["name"] == f"{name}{end}" for p in result.agents)
    ]
    if not found:
        agents = ", ".join(p["name"] for p in result.agents) or "none"
        raise BurstenvError(f"{path}: agent {known[-1]} took no part in this evaluation; its agents: {agents}")
    return found


def _summary(subject: Subject, results: Sequence[tuple[Path, EvaluationResult, list[str]]]) -> str:
    headline = []
    for _, result, found in results:
        row = result.difference(found[0], result.headline_load, "best")
        headline.append(
            f"{_signed(row['mean'])} points{_interval(row)} against the best heuristic of {result.scenario} at load "
            f"{result.headline_load:g} ({result.split} split)"
        )
    what = " and ".join(subject.decide)
    text = subject.purpose.strip().rstrip(".")
    return f"{text + '. ' if text else ''}Decides {what}; trained on {subject.scenario}. " + "; ".join(headline) + "."


def _training(agent: Any, log: Sequence[dict[str, Any]]) -> list[str]:
    told, config = agent.description, agent.config
    network = export_network(agent)
    weights = 0 if network is None else sum(array.size for array in network.arrays.values())
    lines = [
        f"- Scenario: `{told['scenario']}` version {told['scenario_config'].get('version', 1)}, "
        f"{told['num_replicas']} replicas, train split, seed {told['seed']}.",
        f"- Algorithm: {config.algorithm.name}; network: {config.network} {' x '.join(map(str, config.net_arch))}"
        + (f", {weights:,} actor weights." if weights else "."),
        f"- {'Climbs the judged score' if config.evolves else f'Reward: {config.reward}'}; "
        f"fixed: {_fixed(config, told)}.",
    ]
    if config.advised:
        lines.append(f"- Advised by, and before training equal to, `{config.admission}/{config.routing}`.")
    if config.begin_with is not None:
        lines.append(f"- Begins with the weights of `{config.begin_with}`.")
    if config.warm_start is not None:
        teacher = config.warm_start.policy
        teachers = "the best tuned composite of each load" if teacher == TUNED else teacher
        lines.append(f"- Warm start: imitates {teachers} for {config.warm_start.steps:,} decisions.")
    if log:
        best = [record for record in log if record.get("best")] or log
        lines.append(
            f"- Budget: {log[-1]['steps']:,} decisions in {log[-1]['wall_s'] / 60.0:.1f} minutes; the checkpoint with "
            f"the best validation is that of {best[-1]['steps']:,}."
        )
    if told.get("command"):
        lines.append(f"- Command: `{told['command']}`")
    lines.append(f"- burstenv {told['burstenv']}.")
    return lines


def _fixed(config: Any, told: dict[str, Any]) -> str:
    parts = {
        "admission": config.admission, "routing": config.routing, "batching": config.batching or told["modes"][0],
    }  # fmt: skip
    if config.background is not None:
        parts["background"] = config.background
    if config.migrates:
        parts["the rule it corrects"] = config.migration or told["scenario_config"]["migration"]["rule"]
    if config.action == "offset":
        parts["the rule it adds to"] = config.scaling or told["scenario_config"]["scaling"]["rule"]
    fixed = [f"{part} `{rule}`" for part, rule in parts.items() if part not in config.decide]
    return ", ".join(fixed) or "nothing"


def _scores(result: EvaluationResult, found: Sequence[str], own: str) -> str:
    manifest, settings = result.manifest, result.provenance
    lines = [
        f"### {result.scenario}, {result.split} split",
        "",
        "| load | policy | score | attainment | token-weighted | best heuristic | its score | ahead [points] |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for load in result.loads:
        best = result.best_at(load)
        theirs = result.summary_of(best["policy"], load)
        for name in found:
            mine, row = result.summary_of(name, load), result.difference(name, load, "best")
            lines.append(
                f"| {load:g} | {way_of(name).strip('()') or own} | "
                f"{' | '.join(_share(mine, metric) for metric, _ in BY)} | `{best['policy']}`"
                f"{'' if best['beforehand'] else ' (picked on these episodes)'} | {_share(theirs, 'score')} | "
                f"{_signed(row['mean'])}{_interval(row)} |"
            )
    seeds = settings.get("seeds", [])
    lines += ["", f"{len(seeds)} episodes at each load. Command: `{manifest.get('command', 'not recorded')}`"]
    return "\n".join(lines)


BY = (("score", "worth"), ("attainment", "count"), ("token_weighted_attainment", "tokens"))


def _losses(results: Sequence[tuple[EvaluationResult, list[str]]]) -> str:
    """Return every load and group in which the agent is significantly worse than the best heuristic."""
    lines = []
    for result, found in results:
        for load in result.loads:
            for metric, called in BY:
                row = result.difference(found[0], load, "best", metric)
                if row["high"] is not None and row["high"] < 0.0:
                    lines.append(
                        f"- {result.scenario}, load {load:g}, by {called}: {_signed(row['mean'])}{_interval(row)}."
                    )
            lines += [
                f"- {result.scenario}, load {load:g}, {row['group'].replace('_', ' ')}: {_signed(row['difference'])}"
                f"{_interval(row, 'difference_')} of {row['offered']:,} requests."
                for row in result.groups
                if row["policy"] == found[0] and row["load"] == load and _lost(row)
            ]
    if not lines:
        return "These evaluations show no loss, with 95 % intervals, overall or by group of requests."
    head = "Points against the best heuristic of the same load, with the whole interval below zero:"
    return "\n".join([head, "", *lines])


def _lost(row: Row) -> bool:
    high, mean = row["difference_high"], row["difference"]
    return high is not None and high < 0.0 and mean < -MATTERS


def _use(policies: str, told: Mapping[str, Any], bound: int | str) -> str:
    """Return how an agent is used on its scenario, and that it is bound to a number of replicas, if it is to one."""
    runs = f" It runs on {bound} replicas only." if bound else ""
    return (
        f"    burstenv evaluate --scenario {told['scenario']} {policies} --policy ladder\n\n"
        f"It needs the features and batching modes of its scenario ({', '.join(told['modes'])}).{runs}"
    )


def _share(row: Row, metric: str) -> str:
    low, high = row[f"{metric}_low"], row[f"{metric}_high"]
    interval = "" if low is None else f" [{POINTS * low:.1f}, {POINTS * high:.1f}]"
    return f"{POINTS * row[metric]:.1f} %{interval}"


def _signed(value: float) -> str:
    return f"{POINTS * value:+.1f}"


def _interval(row: Row, prefix: str = "") -> str:
    low, high = row[f"{prefix}low"], row[f"{prefix}high"]
    return "" if low is None else f" [{_signed(low)}, {_signed(high)}]"
