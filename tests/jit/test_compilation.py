"""Compiled once for every cluster, and no memory allocated per step."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import pytest
from numba.core.runtime import _nrt_python, rtsys

from burstenv._jit import decorators as kernel
from burstenv._jit.cache import cache_directory, is_cold
from burstenv._jit.heap import heap_first
from burstenv.cluster import Cluster, entries
from burstenv.engine.records import ENTRY, ENTRY_ID
from burstenv.envs import step as kernels
from burstenv.envs.action import ActionLayout
from burstenv.envs.exchange import settings_of
from burstenv.envs.observation.features import ObservationLayout
from burstenv.envs.observation.sessions import no_links
from burstenv.envs.step import UNLIMITED, publish, rollout, step_batch
from burstenv.policies import named_mode, parse_composite
from tests.cluster.small_clusters import loaded, random_requests, replica

DISPATCHERS = [
    *(v for k, v in vars(kernels).items() if hasattr(v, "signatures") and k != "step_batch_threads"),
    *(v for k, v in vars(entries).items() if hasattr(v, "signatures") and k.endswith("_at")),
]


class Stepper:
    """A batch of clusters with all that ``step_batch`` needs around it."""

    def __init__(self, num_envs: int, num_replicas: int, block_size: int, modes: tuple[str, ...] = ("vllm",)):
        specs = [replica(name=f"r{r}", block_size=block_size) for r in range(num_replicas)]
        self.cluster = Cluster(specs, [named_mode(m) for m in modes], num_envs=num_envs, num_requests=400)
        layout = ActionLayout.build(("admission", "routing", "batching"), "multi", num_replicas, len(modes))
        self.record = parse_composite("always/jsq/vllm").record(modes)
        self.sizes = layout.sizes
        self.actions = np.zeros((num_envs, 3), np.int64)
        observed = ObservationLayout(num_replicas, modes)
        self.settings = settings_of(self.record, {"capacity_per_s": 10.0}, layout.flags(), observed.flags())
        self.observations = np.zeros((num_envs, observed.size), np.float32)
        self.masks = np.zeros((num_envs, sum(layout.sizes)), np.int8)
        self.rewards, self.totals = np.zeros((num_envs, 8)), np.zeros((num_envs, 8))
        self.elapsed_s = np.zeros(num_envs)
        self.load()

    def load(self) -> None:
        longest = self.cluster.specs[0].max_model_len - 1
        for i in range(self.cluster.num_envs):
            self.cluster.load(i, random_requests(np.random.default_rng(i), 300, longest, 20.0), i)
            publish(*self._given(), i, True)

    def _given(self) -> tuple[Any, ...]:
        return (
            *self.cluster.state.arrays(), self.settings, no_links(self.cluster.num_envs), self.actions,
            self.observations, self.masks, self.rewards, self.totals, self.elapsed_s,
        )  # fmt: skip

    def step(self) -> None:
        step_batch(*self._given())

    def rollout(self, decisions: int) -> int:
        self.cluster.rewind(0, 300)
        return rollout(*self.cluster.state.arrays(), self.record, 0, np.int64(decisions))


def test_another_cluster_size_compiles_nothing():
    def use(num_envs: int, num_replicas: int, block_size: int, modes: tuple[str, ...]) -> None:
        stepper = Stepper(num_envs, num_replicas, block_size, modes)
        rng = np.random.default_rng(0)
        for _ in range(30):
            stepper.actions[...] = rng.integers(0, stepper.sizes, stepper.actions.shape)
            stepper.step()
        cluster = stepper.cluster
        cluster.load(0, cluster.records(0))
        cluster.next_epoch(0)
        cluster.decide(0, 1, num_replicas - 1, len(modes) - 1)
        cluster.set_mode(0, 0, 0, 1.0)
        cluster.load(0, cluster.records(0))
        cluster.submit(0, 0, 5, 1.0)
        cluster.advance(0, 0, 2.0)
        cluster.load(0, cluster.records(0))
        assert stepper.rollout(int(UNLIMITED)) == 300

    use(1, 4, 16, ("vllm",))
    before = {d.py_func.__name__: len(d.signatures) for d in DISPATCHERS}
    assert before["step_batch"] == before["rollout"] == before["advance_at"] == 1
    for num_envs, num_replicas, block_size in ((1, 1, 1), (3, 4, 16), (2, 16, 32), (1, 5, 7)):
        use(num_envs, num_replicas, block_size, ("vllm", "edf-512", "spf")[: 1 + num_envs])
    assert {d.py_func.__name__: len(d.signatures) for d in DISPATCHERS} == before


@pytest.fixture
def counted():
    """Numba's allocation counters, switched on."""
    was_on = _nrt_python.memsys_stats_enabled()
    _nrt_python.memsys_enable_stats()
    yield
    if not was_on:
        _nrt_python.memsys_disable_stats()


def allocations_of(call: Callable[[], Any]) -> int:
    before = rtsys.get_allocation_stats().alloc
    call()
    return rtsys.get_allocation_stats().alloc - before


@pytest.mark.usefixtures("counted")
def test_counters_see_an_allocating_kernel():
    @numba.njit
    def allocates(n: int) -> float:
        total = 0.0
        for k in range(n):
            total += np.full(k + 3, 1.0).sum()
        return total

    allocates(1)
    assert allocations_of(lambda: allocates(50)) - allocations_of(lambda: allocates(10)) >= 40


@pytest.mark.usefixtures("counted")
def test_an_episode_allocates_no_more_than_a_decision():
    stepper = Stepper(1, 4, 16)
    stepper.rollout(1)
    few = allocations_of(lambda: stepper.rollout(1))
    assert allocations_of(lambda: stepper.rollout(100)) == few
    assert allocations_of(lambda: stepper.rollout(int(UNLIMITED))) == few  # what the call itself takes


@pytest.mark.usefixtures("counted")
def test_a_step_of_many_environments_allocates_no_more_than_of_one():
    one, many = Stepper(1, 4, 16), Stepper(24, 4, 16)
    for stepper in (one, many):
        stepper.step()
    per_call = allocations_of(one.step)
    for _ in range(100):
        assert allocations_of(many.step) == per_call
        assert allocations_of(one.step) == per_call


_ELSEWHERE = """
import pickle, sys
from burstenv._jit.decorators import DETACHED
cluster = pickle.load(sys.stdin.buffer)
def ready():
    print(sorted(part.name for part in DETACHED if part.ready))
ready()
cluster.advance(0, 0, 1e9)
ready()
print(int((cluster.records(0)["finish_s"] > 0).sum()))
"""


@pytest.mark.parametrize(("changes", "engine"), [({}, []), ({"chunked_prefill": False}, ["advance_general"])])
def test_a_cluster_in_another_process_has_the_engine_it_needs_and_no_other(changes, engine):
    requests = random_requests(np.random.default_rng(0), 40, 500, 5.0)
    cluster = loaded(requests, [replica(**changes)])
    for k, request in enumerate(requests):
        cluster.advance(0, 0, request["arrival_s"])
        cluster.submit(0, 0, k, request["arrival_s"])
    shown = subprocess.run(
        [sys.executable, "-c", _ELSEWHERE], input=pickle.dumps(cluster), stdout=subprocess.PIPE, check=True
    ).stdout.decode()
    assert shown.splitlines() == ["[]", str([*engine, "advance_replica"]), "40"]


def test_inner_kernels_have_no_machine_code():
    @numba.njit
    def calls(pool):
        return heap_first(pool, 0)

    assert calls(np.arange(ENTRY, dtype=np.int32)) == ENTRY_ID
    assert heap_first.signatures
    for compiled in heap_first.overloads.values():
        assert compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name) == 0
    with pytest.raises(TypeError, match="called by kernels only"):
        heap_first(np.arange(ENTRY, dtype=np.int32), 0)


def test_the_first_use_is_announced_although_small_kernels_were_compiled_before(monkeypatch, capsys):
    monkeypatch.setattr(kernel, "_COLD", True)
    monkeypatch.setattr(kernel, "_announced", False)
    kernel.announce_first_use()
    kernel.announce_first_use()
    assert capsys.readouterr().err.count("compiling the engine") == 1


def test_the_kernel_cache_is_used():
    Stepper(1, 1, 16).step()
    assert not is_cold()
    assert any("step_batch" in path.name for path in cache_directory().rglob("*.nbc"))
