"""A stage on the machines of a Ray cluster: episodes under candidates, with the outcomes of one machine."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any

from burstenv.agents.play.stage import LocalStage, Played, Stage
from burstenv.envs.scenario import Scenario
from burstenv.evaluation.episodes import Episode
from burstenv.evaluation.workers import connected_ray, ray_cores, ray_result
from burstenv.policies import Composite, NetworkPolicy


class RemoteStages:
    """The stages of a process of the cluster, one for each scenario that it was asked about; plays on one core."""

    def __init__(self) -> None:
        self._stages: dict[str, LocalStage] = {}

    def play(
        self, key: str, scenario: Sequence[Any], counts_groups: bool, policy: Any, episodes: Sequence[Any]
    ) -> list[Played]:
        """Play episodes under one policy.

        Args:
            key: Of the stage.
            scenario: Its scenario, a reference to Ray's object store in a list; read for a new key alone.
            counts_groups: As :class:`burstenv.agents.play.stage.LocalStage`.
            policy: The policy.
            episodes: References.
        """
        import ray  # type: ignore[import-not-found,unused-ignore]

        if key not in self._stages:
            self._stages[key] = LocalStage(ray.get(scenario[0]), counts_groups=counts_groups)
        return self._stages[key].play([(policy, episode) for episode in ray.get(list(episodes))])


@lru_cache(maxsize=1)
def _processes(ray: Any, job: str) -> list[Any]:
    """Return a process for each core of the cluster; all stages of a connection, Ray's ``job``, share them."""
    remote = ray.remote(num_cpus=1)(RemoteStages)
    return [remote.remote() for _ in range(ray_cores(ray))]


class RayStage(Stage):
    """Plays on all cores of a Ray cluster; the outcomes do not depend on their number.

    Args:
        scenario: The scenario; sent to the cluster once.
        counts_groups: Whether to count requests by prompt length.
        address: Of the cluster, see :func:`burstenv.evaluation.workers.connected_ray`.

    Raises:
        BurstenvError: Without Ray, or where the cluster cannot be reached.
    """

    def __init__(self, scenario: Scenario, counts_groups: bool, address: str | None):
        super().__init__(scenario, counts_groups)
        self._ray = connected_ray(address)
        self._actors = _processes(self._ray, self._ray.get_runtime_context().get_job_id())
        self._given = self._ray.put(scenario)
        self._key = self._given.hex()

    def play(self, tasks: Sequence[tuple[Composite | NetworkPolicy, Episode]]) -> list[Played]:
        """Play episodes, each under a policy, and return their outcomes in the same order.

        A policy is sent with its episodes in a row; each different episode goes to the cluster once.
        """
        ray, given = self._ray, (self._key, [self._given], self._counts_groups)
        sent = {id(episode): ray.put(episode) for episode in {id(one): one for _, one in tasks}.values()}
        parts = [list(part) for _, part in groupby(tasks, key=lambda task: id(task[0]))]
        outcomes: list[list[Played]] = [[] for _ in parts]
        free, begun = list(self._actors), 0
        busy: dict[Any, tuple[Any, int]] = {}  # by call: the process, and the place of its part
        while begun < len(parts) or busy:
            while free and begun < len(parts):
                actor, part = free.pop(), parts[begun]
                call = actor.play.remote(*given, part[0][0], [sent[id(episode)] for _, episode in part])
                busy[call] = actor, begun
                begun += 1
            (done,), _ = ray.wait(list(busy), num_returns=1)
            actor, place = busy.pop(done)
            outcomes[place] = ray_result(ray, done)
            free.append(actor)
        return [played for part in outcomes for played in part]


def make_stage(scenario: Scenario, num_threads: int, counts_groups: bool, ray: str | None) -> Stage:
    """Return a stage on threads of this machine, or on a Ray cluster (``ray``: its address, ``""``: a running one)."""
    if ray is None:
        return LocalStage(scenario, num_threads, counts_groups)
    return RayStage(scenario, counts_groups, ray or None)
