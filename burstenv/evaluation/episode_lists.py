"""The fixed validation and test episodes of each scenario, committed as data, so that a changed draw is noticed.

An episode follows from the scenario, the split and its seed; a list says which seeds are meant and what came out where
the list was made. ``python -m burstenv.evaluation.episode_lists [NAME ...]`` makes the lists of all scenarios anew.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import yaml
from pydantic import Field

from burstenv.config import Config, load, shipped
from burstenv.envs.scenario import Scenario, ScenarioConfig, load_scenario
from burstenv.evaluation.episodes import Episode, draw_episode
from burstenv.evaluation.tuning.tuned_policies import scenario_digest
from burstenv.files import write_atomic

FOLDER = "episodes"  # of configs/, by scenario
COUNTS = {"validation": 18, "test": 27}  # episodes of each split: twice and thrice its nine days
_TICK_S = 1e-6  # times are compared to the microsecond: mathematics libraries differ in the last bit


class FixedEpisode(Config):
    """One episode of a list."""

    seed: Annotated[int, Field(ge=0)]
    day: int  # of the trace, from 0
    requests: Annotated[int, Field(ge=1)]
    digest: str  # see :func:`episode_digest`


class EpisodeList(Config):
    """The contents of an episode list's file.

    Attributes:
        scenario: Name of the scenario.
        scenario_sha256: Digest of all that fixes the task.
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


def episode_digest(episode: Episode) -> str:
    """Return 16 hexadecimal digits that stand for all that an episode's policies meet.

    Of the requests: arrival [us], lengths, predicted length, class, session and objectives [us]; of clients that act:
    patience and think time [us] and what follows what.
    """
    requests = episode.requests
    columns = [
        np.round(requests[name] / _TICK_S).astype(np.int64) for name in ("arrival_s", "ttft_slo_s", "tpot_slo_s")
    ]
    names = ("prompt_tokens", "output_tokens", "predicted_tokens", "class_code", "session")
    columns += [requests[name].astype(np.int64) for name in names]
    if episode.clients is not None:
        clients = episode.clients
        for values in (clients.patience_s, clients.think_s):
            finite = np.where(np.isfinite(values), values, -1.0)
            columns.append(np.round(finite / _TICK_S).astype(np.int64))
        columns += [np.asarray(v, np.int64) for v in (clients.previous, clients.upstream_failed)]
    digest = hashlib.sha256()
    for column in columns:
        digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()[:16]


def shipped_list(config: ScenarioConfig) -> EpisodeList | None:
    """Return the committed episodes of a scenario; None where there are none for it as it is."""
    if config.name not in shipped(FOLDER):
        return None
    found = load(EpisodeList, FOLDER, config.name)
    return found if found.scenario_sha256 == scenario_digest(config) else None


def fixed_count(config: ScenarioConfig, split: str) -> int:
    """Return how many episodes of a split are committed for a scenario, or would be."""
    found = shipped_list(config)
    if found is None or split not in found.splits:
        return COUNTS.get(split, COUNTS["test"])
    return len(found.splits[split])


def changed_seeds(scenario: Scenario, split: str, seeds: Sequence[int]) -> list[int] | None:
    """Draw episodes at the scenario's own load and return the seeds of those that are not as committed.

    None where nothing is committed for the scenario as it is and the split. A change is also said on standard error.
    """
    found = shipped_list(scenario.config)
    if found is None or split not in found.splits:
        return None
    committed = {episode.seed: episode for episode in found.splits[split]}
    changed = [
        seed for seed in seeds if seed in committed and _drawn(scenario, split, seed).digest != committed[seed].digest
    ]
    if changed:
        print(
            f"burstenv: {len(changed)} of the {split} episodes of scenario {found.scenario} (the first: seed "
            f"{changed[0]}) are not those of configs/{FOLDER}/{found.scenario}.yaml, so figures published for those "
            "cannot be compared; has the generator, the sampler or NumPy changed?",
            file=sys.stderr,
        )
    return changed


def draw_list(scenario: Scenario) -> EpisodeList:
    """Draw the episodes of a scenario that are to be committed."""
    return EpisodeList(
        scenario=scenario.config.name,
        scenario_sha256=scenario_digest(scenario.config),
        load=scenario.config.load,
        splits={split: [_drawn(scenario, split, seed) for seed in range(count)] for split, count in COUNTS.items()},
    )


def _drawn(scenario: Scenario, split: str, seed: int) -> FixedEpisode:
    load_ = scenario.config.load
    episode = draw_episode(scenario, split, load_, seed, load_ * scenario.capacity_per_s(split))
    return FixedEpisode(seed=seed, day=episode.day, requests=len(episode.requests), digest=episode_digest(episode))


def main(arguments: list[str]) -> int:
    """Write the lists of the named scenarios, or of all."""
    for name in arguments or shipped("scenarios"):
        path = Path("configs") / FOLDER / f"{name}.yaml"
        write_atomic(path, draw_list(load_scenario(name)).to_yaml())
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
