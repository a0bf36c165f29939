"""Fine-tuning in the slack: the compiled cluster equals the reference cluster, and both keep the rules."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from burstenv.cluster import ClientsConfig, ReplicaSpec
from burstenv.cluster.background_config import BackgroundConfig
from burstenv.cluster.flow_config import FlowConfig
from burstenv.cluster.transfer_config import TransfersConfig
from burstenv.config import parse
from burstenv.engine.background_rule import (
    DECODES_ALONE,
    LOOKS_AHEAD,
    ONE_BY_ONE,
    PAUSED,
    WHOLE_STEPS,
    BackgroundRule,
)
from burstenv.hardware.latency.entry import load_latency
from tests.cluster.play import CHANGES, LOOPS, METRICS, PATIENCE, RETRIES, Play, changing, episode
from tests.cluster.small_clusters import replica
from tests.cluster.test_cluster_agrees import ENGINES, MODES, SIZES
from tests.cluster.test_flow_agrees import RULES as QUEUES
from tests.cluster.test_flow_agrees import random_queue
from tests.cluster.test_hand_overs_agree import CONFIGS as HAND_OVERS
from tests.cluster.test_hand_overs_agree import ROLES
from tests.cluster.test_transfers_agree import CONFIGS as MIGRATIONS
from tests.cluster.test_transfers_agree import SLOW as LINK
from tests.random_examples import examples

BOUNDS_S = [PAUSED, 0.0, 0.1, 0.5, math.inf]
FLAGS = [0, DECODES_ALONE, ONE_BY_ONE, LOOKS_AHEAD, WHOLE_STEPS, WHOLE_STEPS + ONE_BY_ONE, DECODES_ALONE + LOOKS_AHEAD]


def random_rule(rng: np.random.Generator) -> BackgroundRule:
    """Draw a rule of any kind."""
    return BackgroundRule(
        bound_s=float(rng.choice(BOUNDS_S, p=[0.1, 0.35, 0.2, 0.25, 0.1])),
        tokens=int(rng.choice([0, 16, 100, 512])),
        target_s=float(rng.choice([math.inf, math.inf, 0.03, 0.045])),
        allowance_s=float(rng.choice([math.inf, 0.1, 1.0])),
        flags=int(rng.choice(FLAGS)),
    )


def play(
    seed: int,
    config: ClientsConfig | None,
    engine: str,
    tables: bool = False,
    change: str = "none",
    moving: dict[str, Any] | None = None,
    **settings: Any,
) -> BackgroundPlay:
    """Play and compare one episode of three unequal replicas, two or three of them with a job, that change or not."""
    rng = np.random.default_rng(seed)
    changes: dict[str, Any] = {"latency": load_latency("llama-3.1-8b_rtx-4090_tp1")} if tables else {}
    sizes, longest = SIZES, 700
    if moving is not None:
        longest = min(size["num_blocks"] for size in SIZES) * 16
        roles = moving.pop("roles")
        sizes = [size | {"role": role} | LINK for size, role in zip(SIZES, roles, strict=True)]
        changes["max_model_len"] = longest
        settings |= moving
        longest -= 80
    specs: list[ReplicaSpec] = [replica(**{**size, **changes}, layers=3, **ENGINES[engine]) for size in sizes]
    span_s = float(rng.choice([1.5, 6.0]))
    requests, clients = episode(rng, config, int(rng.choice([20, 90])), longest, span_s, 60)
    drains = ["wait"] if moving is None else ["wait", "migrate"]
    settings |= changing(rng, change, len(specs), span_s + 3.0, drains)
    tokens = rng.choice([0.0, 700.0, 5000.0])
    background = parse(
        BackgroundConfig,
        {
            "step_tokens": int(rng.choice([48, 256])),
            "cost": float(rng.choice([1.0, 2.0, 2.66])),
            "interruptible": str(rng.choice(["step", "layer"])),
            "replicas": None if rng.random() < 0.5 else [0, 2],
            "tokens": tokens or None,
        },
        "background",
    )
    result = BackgroundPlay(rng, specs, MODES, requests, config, clients, background=background, **settings)
    result.begin()
    result.run(result.look)
    result.compare_outcomes()
    result.compare_background()
    return result


class BackgroundPlay(Play):
    """One episode on both clusters, with rules that change at decisions."""

    changes = 0.15  # share of the decisions at which a rule changes

    def begin(self) -> None:
        """Let every replica begin with a rule of its own."""
        for r in range(self.cluster.num_replicas):
            self._set(r)

    def _set(self, r: int) -> None:
        if self.reference.replicas[r].job is not None:
            rule = random_rule(self.rng)
            self.cluster.set_background(1, r, rule)
            self.reference.set_background(r, rule)

    def look(self, at_gateway: int) -> None:
        """Compare the progress, and perhaps change a rule."""
        self.compare_background()
        if self.rng.random() < self.changes:
            self._set(int(self.rng.integers(self.cluster.num_replicas)))

    def compare_background(self) -> None:
        """Compare the work done so far."""
        now_s, trained = self.reference.now_s, self.cluster.trained(1)
        for r, its in enumerate(self.reference.replicas):
            if its.job is None:
                assert trained[r].tolist() == [0.0, 0.0, math.inf, 0.0]
                continue
            work = its.job.work  # the end of a step may be at this instant, but for rounding
            ended = its.job._piece if math.isclose(its.clock_s, now_s, rel_tol=1e-12) else 0
            before, after = (
                (its.job.units_at(now_s + by) - less) * work.step_tokens / work.step_units
                for by, less in ((-1e-9, ended), (1e-9, 0))
            )
            assert before * (1.0 - 1e-12) <= trained[r, 0] <= after * (1.0 + 1e-12), (r, trained[r, 0], before, now_s)
            lost_tokens = its.job.lost_units * work.step_tokens / work.step_units
            assert math.isclose(trained[r, 3], lost_tokens, rel_tol=1e-12), r


@examples(60)
@given(
    seed=st.integers(0, 2**20),
    engine=st.sampled_from(list(ENGINES)),
    tables=st.booleans(),
    tick_s=st.sampled_from([None, 0.4]),
    metrics=st.sampled_from(METRICS),
)
@example(23, "unchunked", False, None, METRICS[0])  # paused while nothing that waits can be scheduled, and then not
def test_background_work_is_what_is_written_down(seed, engine, tables, tick_s, metrics):
    play(seed, None, engine, tables, tick_s=tick_s, metrics=metrics)


@examples(40)
@given(
    seed=st.integers(0, 2**20),
    patience=st.sampled_from(PATIENCE),
    retries=st.sampled_from(RETRIES),
    loop=st.sampled_from(LOOPS),
    engine=st.sampled_from(list(ENGINES)),
    tick_s=st.sampled_from([None, 0.4]),
)
@example(567, None, RETRIES[2], LOOPS[2], "unchunked", None)  # steps of two replicas end at one instant
def test_background_work_beside_clients_is_what_is_written_down(seed, patience, retries, loop, engine, tick_s):
    config = ClientsConfig(patience=patience, retries=retries, closed_loop=loop)
    play(seed, config, engine, tick_s=tick_s)


@examples(60)
@given(
    seed=st.integers(0, 2**20),
    engine=st.sampled_from(list(ENGINES)),
    change=st.sampled_from(CHANGES[2:]),
    clients=st.booleans(),
    tick_s=st.sampled_from([None, 0.4]),
    metrics=st.sampled_from(METRICS),
)
@example(377, "unchunked", "faults", False, None, METRICS[0])  # a hang of no time while nothing can be scheduled
@example(1303, "unchunked", "scaling and faults", False, None, METRICS[0])  # another pace of a replica that is stuck
def test_background_work_on_replicas_that_change_is_what_is_written_down(
    seed, engine, change, clients, tick_s, metrics
):
    config = ClientsConfig(patience=PATIENCE[2], closed_loop=LOOPS[1]) if clients else None
    play(seed, config, engine, change=change, tick_s=tick_s, metrics=metrics)


@examples(24)
@given(
    seed=st.integers(0, 2**20),
    engine=st.sampled_from(list(ENGINES)),
    rule=st.sampled_from(QUEUES),
    change=st.sampled_from(CHANGES),
    clients=st.booleans(),
    metrics=st.sampled_from(METRICS),
)
@example(120, "unchunked", QUEUES[1], "none", False, METRICS[0])  # the queue is looked at as a step is about to begin
def test_background_work_behind_a_queue_is_what_is_written_down(seed, engine, rule, change, clients, metrics):
    config = ClientsConfig(patience=PATIENCE[2], closed_loop=LOOPS[1]) if clients else None
    queue = random_queue(np.random.default_rng(seed), rule)
    play(seed, config, engine, change=change, metrics=metrics, flow=FlowConfig(look_s=0.05), queue=queue)


@examples(60)
@given(
    seed=st.integers(0, 2**20),
    engine=st.sampled_from(list(ENGINES)),
    change=st.sampled_from(CHANGES),
    transfers=st.sampled_from([*MIGRATIONS, *HAND_OVERS]),
    roles=st.sampled_from([("mixed", "mixed", "mixed"), *ROLES]),
    migrates=st.booleans(),
    switches=st.booleans(),
    clients=st.booleans(),
    metrics=st.sampled_from(METRICS),
)
@example(  # a request moves that backward passes have delayed where it was
    79, "prefix caching", "none", MIGRATIONS[3], ("prefill", "decode", "decode"), True, True, True, METRICS[0]
)
def test_background_work_beside_transfers_is_what_is_written_down(
    seed, engine, change, transfers, roles, migrates, switches, clients, metrics
):
    config = ClientsConfig(patience=PATIENCE[2], closed_loop=LOOPS[1]) if clients else None
    moving = {
        "transfers": TransfersConfig(**transfers), "roles": roles, "switches_roles": switches,
        "migrate_period_s": 0.05 if migrates else None,
    }  # fmt: skip
    play(seed, config, engine, change=change, moving=moving, metrics=metrics)


@pytest.mark.parametrize("engine", ENGINES)
def test_all_of_it_happens(engine):
    """Work apart and shared, jobs that end, jobs that do not, requests that wait for ever."""
    apart = shared = ended = failed = 0
    for seed in range(12):
        result = play(seed, None, engine)
        for its in result.reference.replicas:
            if its.job is not None:
                apart += its.job.apart_s > 0.0
                shared += its.job.units * its.job.work.unit_s > its.job.apart_s + 1e-9
                ended += its.job.units == its.job.work.units
        failed += int(result.environment["failed"])
    assert min(apart, shared, ended) >= 3
    assert failed >= 3
