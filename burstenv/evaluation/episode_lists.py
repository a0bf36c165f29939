"""The fixed validation and test episodes of each scenario, committed as data to detect changed draws.

The scenario, the split and a seed determine an episode; a list holds the seeds and fingerprints of the episodes.
``python -m burstenv.evaluation.episode_lists [NAME ...]`` makes the lists of all scenarios again.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import yaml
from pydantic import Field

from burstenv.cluster.faults.rows import Faults
from burstenv.config import Config, load, schema_line, shipped
from burstenv.envs.scenario import Scenario, load_scenario
from burstenv.envs.scenario_config import ScenarioConfig
from burstenv.evaluation.episodes import Episode, draw_episode
from burstenv.evaluation.fingerprint import Columns, Fingerprint
from burstenv.evaluation.tuning.tuned_policies import scenario_digest
from burstenv.files import write_atomic

FOLDER = "episodes"  # of configs/, by scenario
COUNTS = {"validation": 18, "test": 27}  # episodes of each split: twice and thrice its nine days


class FixedEpisode(Fingerprint):
    """One episode of a list: the fingerprint of its :func:`episode_columns`, its seed, its day of the trace from 0."""

    seed: Annotated[int, Field(ge=0)]
    day: int


class EpisodeList(Config):
    """The contents of an episode list's file.

    Attributes:
        scenario: Name of the scenario.
        scenario_sha256: Digest of the scenario's configuration.
        load: Share of capacity at which the episodes were drawn: the scenario's own.
        splits: The episodes of each split, in order.
    """

    scenario: str
    scenario_sha256: str
    load: float
    splits: dict[str, Annotated[list[FixedEpisode], Field(min_length=1)]]

    def to_yaml(self) -> str:
        """Return the file's contents, an episode a line."""
        lines = [f"scenario: {self.scenario}", f"scenario_sha256: {self.scenario_sha256}", f"load: {self.load}"]
        lines.append("splits:")
        for split, episodes in self.splits.items():
            lines.append(f"  {split}:")
            for episode in episodes:
                text = yaml.safe_dump(episode.model_dump(), sort_keys=False, default_flow_style=True, width=200)
                lines.append(f"  - {text.strip()}")
        return "\n".join(lines) + "\n"


def episode_columns(episode: Episode) -> Columns:
    """Return all inputs of an episode's policies, as columns of times and of whole numbers.

    Of the requests: arrival, objectives, lengths, predicted length, class and session, and where there are any tenant
    and priority; of active clients: patience and think time, order of turns, and failures before the cluster; of
    faults: all there is.
    """
    requests = episode.requests
    times = [requests[name] for name in ("arrival_s", "ttft_slo_s", "tpot_slo_s")]
    numbers = [
        requests[name] for name in ("prompt_tokens", "output_tokens", "predicted_tokens", "class_code", "session")
    ]
    if episode.clients is not None:
        clients = episode.clients
        times += [clients.patience_s, clients.think_s]
        numbers += [clients.previous, clients.upstream_failed]
    if episode.tenant is not None:
        numbers.append(episode.tenant)
    if requests["priority"].any():
        numbers.append(requests["priority"])
    if episode.faults is not None:
        numbers.append(np.full(len(requests), _of_faults(episode.faults)))
    return times, numbers


def _of_faults(faults: Faults) -> np.int64:
    """Return a fingerprint of an episode's faults as one number, which every request's row then holds."""
    rows, names = faults.rows, faults.rows.dtype.names or ()
    times = [rows[name] for name in names if rows.dtype[name].kind == "f"]
    found = Fingerprint.of(times, [rows[name] for name in names if rows.dtype[name].kind != "f"])
    return np.uint64(int(found.digest, 16)).astype(np.int64)


def shipped_list(config: ScenarioConfig) -> EpisodeList | None:
    """Return the committed episodes of a scenario; None without any for its present version."""
    if config.name not in shipped(FOLDER):
        return None
    found = load(EpisodeList, FOLDER, config.name)
    return found if found.scenario_sha256 == scenario_digest(config) else None


def said_of_list(config: ScenarioConfig) -> str:
    """Return a warning if the episodes committed under a scenario's name are not its own; empty otherwise."""
    if config.name not in shipped(FOLDER) or shipped_list(config) is not None:
        return ""
    return (
        f"The episodes are not those committed for scenario {config.name}, because the scenario differs from the "
        "shipped one of that name; published figures cannot be compared."
    )


def fixed_count(config: ScenarioConfig, split: str) -> int:
    """Return the number of committed episodes of a split for a scenario, or the default number."""
    found = shipped_list(config)
    if found is None or split not in found.splits:
        return COUNTS.get(split, COUNTS["test"])
    return len(found.splits[split])


def compare_with_list(scenario: Scenario, split: str, seeds: Sequence[int]) -> tuple[list[int] | None, str]:
    """Draw episodes at the scenario's own load and compare them with the committed ones.

    Returns:
        The seeds of changed episodes; None if the scenario and split have no committed ones. And a warning; empty
        without changes or committed episodes.
    """
    found = shipped_list(scenario.config)
    if found is None or split not in found.splits:
        return None, ""
    committed = {episode.seed: episode for episode in found.splits[split]}
    changed = [
        seed
        for seed in seeds
        if seed in committed and not committed[seed].fits(*episode_columns(_episode(scenario, split, seed)))
    ]
    if not changed:
        return changed, ""
    return changed, (
        f"{len(changed)} of the {split} episodes of scenario {found.scenario} (the first: seed {changed[0]}) are not "
        f"those of configs/{FOLDER}/{found.scenario}.yaml, so figures published for those cannot be compared; has the "
        "generator, the sampler or NumPy changed?"
    )


def changed_seeds(scenario: Scenario, split: str, seeds: Sequence[int]) -> list[int] | None:
    """Return the seeds of :func:`compare_with_list`; the warning goes to standard error."""
    changed, said = compare_with_list(scenario, split, seeds)
    if said:
        print(f"burstenv: {said}", file=sys.stderr)
    return changed


def draw_list(scenario: Scenario) -> EpisodeList:
    """Draw the episodes of a scenario for its list."""
    return EpisodeList(
        scenario=scenario.config.name,
        scenario_sha256=scenario_digest(scenario.config),
        load=scenario.config.load,
        splits={split: [_drawn(scenario, split, seed) for seed in range(count)] for split, count in COUNTS.items()},
    )


def _episode(scenario: Scenario, split: str, seed: int) -> Episode:
    load_ = scenario.config.load
    return draw_episode(scenario, split, load_, seed, load_ * scenario.capacity_per_s(split))


def _drawn(scenario: Scenario, split: str, seed: int) -> FixedEpisode:
    episode = _episode(scenario, split, seed)
    found = Fingerprint.of(*episode_columns(episode))
    return FixedEpisode(seed=seed, day=episode.day, **found.model_dump())


def main(arguments: list[str]) -> int:
    """Write the lists of the named scenarios, or of all."""
    for name in arguments or shipped("scenarios"):
        path = Path("configs") / FOLDER / f"{name}.yaml"
        write_atomic(path, schema_line(FOLDER, path) + draw_list(load_scenario(name)).to_yaml())
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
