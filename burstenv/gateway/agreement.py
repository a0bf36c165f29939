"""Whether a policy decides about a gateway's traffic as it did: on what the log recorded, and in the simulator.

On the log: everything that happened to requests goes through the simulator's own gateway log
(:class:`burstenv.cluster.gateway_log.GatewayLog`) at the times that the real gateway recorded, with the metrics that it
had read. The policy sees what it saw, so every other decision is a fault: of the code, or of the log.

In the simulator: the decisions of the log are carried out, and the policy is asked in the simulated state. There
answers begin and end some milliseconds sooner or later than they did, which turns ties and near ties round.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from burstenv.cluster import Cluster
from burstenv.cluster.gateway import ADMISSION_NAMES, ADMIT, DEFER
from burstenv.cluster.gateway_log import GatewayLog as Log
from burstenv.envs.play.policy import player_of
from burstenv.envs.scenario import Scenario
from burstenv.gateway.decider import Decider
from burstenv.gateway.incoming import Incoming
from burstenv.gateway.ledger import Metrics
from burstenv.gateway.sight import Sight
from burstenv.gateway.world import LiveWorld
from burstenv.policies import load_policy
from burstenv.workload import CLASSES
from burstenv.workload.formats.gateway_log import SERVED, GatewayLog

Row = dict[str, Any]
TIE, ONE, MORE, ADMISSION = CAUSES = (
    "between replicas with equally many requests in flight",
    "one request apart",
    "more than one request apart",
    "about admission",
)


@dataclass
class Agreement:
    """Decisions of a log beside those of the policy asked again.

    Attributes:
        decisions: Compared.
        equal: Those in which the policy chooses what it chose.
        differences: (what was done, what would have been): how often.
        causes: Differences by what set the two replicas apart, one of ``CAUSES``.
    """

    decisions: int = 0
    equal: int = 0
    differences: Counter[tuple[str, str]] = field(default_factory=Counter)
    causes: Counter[str] = field(default_factory=Counter)

    @property
    def share(self) -> float:
        """Share of equal decisions."""
        return self.equal / max(1, self.decisions)

    def note(self, done: tuple[int, int], chosen: tuple[int, int], in_flight: Sequence[int]) -> None:
        """Count a decision: (admission, replica) as done and as chosen now, with requests in flight by replica."""
        self.decisions += 1
        if done == chosen:
            self.equal += 1
            return
        self.differences[_named(done), _named(chosen)] += 1
        if done[0] != ADMIT or chosen[0] != ADMIT:
            self.causes[ADMISSION] += 1
        else:
            apart = abs(in_flight[done[1]] - in_flight[chosen[1]])
            self.causes[(TIE, ONE)[apart] if apart < 2 else MORE] += 1

    def values(self) -> dict[str, Any]:
        """Return everything in plain values."""
        told = [{"done": a, "chosen": b, "times": count} for (a, b), count in self.differences.most_common()]
        return {"decisions": self.decisions, "equal": self.equal, "share": self.share, "differences": told,
                "causes": {name: self.causes[name] for name in CAUSES}}  # fmt: skip

    def lines(self, where: str, shown: int = 5) -> list[str]:
        """Return the agreement with the most frequent differences."""
        lines = [f"  decisions {where}: {self.equal:,} of {self.decisions:,} equal ({100 * self.share:.1f} %)"]
        told = [f"{self.causes[name]:,} {name}" for name in CAUSES if self.causes[name]]
        lines += [f"    of the others {', '.join(told)}"] if told else []
        for (done, chosen), count in self.differences.most_common(shown):
            lines.append(f"    {count:,} times {done}, now {chosen}")
        return lines


def _named(decision: tuple[int, int]) -> str:
    admission, replica = decision
    return f"replica {replica}" if admission == ADMIT else ("rejected", "", "deferred")[admission]


def _decision(admission: int, replica: int) -> tuple[int, int]:
    return (admission, replica) if admission == ADMIT else (admission, 0)


# -- in the simulator --------------------------------------------------------------------------------


def agreement_in_simulator(cluster: Cluster, scene: Scenario, policy: str, rows: Sequence[Row]) -> Agreement:
    """Carry out the decisions of a log's requests in a cluster that has them loaded, and ask the policy at each."""
    player = player_of(load_policy(policy), cluster, 0, scene.sight)
    sight = Sight(cluster, rows)
    memory = cluster.state.memories[0]
    mode = int(cluster.state.replicas[0, 0]["mode"])
    found = Agreement()
    while True:
        number = cluster.next_epoch(0)
        if cluster.done(0):
            return found
        if number < 0:
            cluster.decide(0, ADMIT, 0, mode)  # a tick
            continue
        row = rows[number]
        if int(cluster.state.requests["defers"][0, number]) < int(row["defers"]):
            cluster.decide(0, DEFER, 0, mode)
            continue
        memory["rng"] = np.uint64(int(row["decisions"][-1]["stream"], 16))
        admission, replica, _ = sight.ask(player, number)
        done = (ADMIT, int(row["sent"][0][0])) if row["sent"] else (ADMISSION_NAMES.index("reject"), 0)
        found.note(
            done, _decision(admission, replica), [cluster.known(0, r).in_flight for r in range(len(scene.specs))]
        )
        sight.decide(*done, mode)


# -- on the log --------------------------------------------------------------------------------------


class _Told:
    """The cached blocks of a prompt, as the log has them."""

    def __init__(self) -> None:
        self.blocks = 0

    def hits(self, keys: Sequence[int]) -> int:
        return self.blocks

    def note_sent(self, keys: Sequence[int]) -> None:
        pass

    def clear(self) -> None:
        pass


ARRIVES, DECIDES, IS_SENT, BEGINS, LEAVES, ENDS = range(6)


def _events(rows: Sequence[Row]) -> list[tuple[float, int, int, int]]:
    """Return what happened to requests: (time, kind, row, which of its decisions or sendings), by time."""
    events = []
    for k, row in enumerate(rows):
        events.append((row["arrival_s"], ARRIVES, k, 0))
        events += [(decision["at_s"], DECIDES, k, n) for n, decision in enumerate(row["decisions"])]
        for n, (_, sent_s, ended_s, _) in enumerate(row["sent"]):
            events += [(sent_s, IS_SENT, k, n), (row["finish_s"] if ended_s is None else ended_s, LEAVES, k, n)]
        if row["first_token_s"] is not None:
            events.append((row["first_token_s"], BEGINS, k, 0))
        over_s = row["sent"][-1][2] if row["outcome"] in SERVED and row["sent"] else row["finish_s"]
        events.append((over_s, ENDS, k, 0))
    return sorted(events)


class Recorded:
    """A log's events, as they happened, in front of the policy that decided.

    Args:
        scene: The scenario with the gateway's cluster.
        log: The log.
        rows: Its requests under that policy.
        policy: The policy.
    """

    def __init__(self, scene: Scenario, log: GatewayLog, rows: Sequence[Row], policy: str):
        mode = str(log.about.get("mode") or scene.mode_names[0])
        self._told = [_Told() for _ in scene.specs]
        knows = log.about.get("cached_prefixes", "unknown") != "unknown"
        self._world = LiveWorld(scene, mode, cached=self._told if knows else None)
        self._decider = Decider(policy, self._world, mode)
        self._memory = self._world.cluster.state.memories[0]
        self._log, self._rows = Log(len(scene.specs)), rows
        self._sessions = log.sessions(list(rows))
        self._own_longest = [spec.max_model_len for spec in scene.specs]
        self._numbers: dict[int, int] = {}
        self._deferred: set[int] = set()
        self.agreement = Agreement()

    def run(self) -> Agreement:
        """Go through all events; return how the policy's decisions agree."""
        notes = {
            ARRIVES: self._arrives, DECIDES: self._decides, IS_SENT: self._is_sent, BEGINS: self._begins,
            LEAVES: self._leaves, ENDS: self._ends,
        }  # fmt: skip
        for time_s, kind, k, n in _events(self._rows):
            notes[kind](self._rows[k], k, n, time_s)
        return self.agreement

    def _arrives(self, row: Row, k: int, n: int, now_s: float) -> None:
        incoming = Incoming(
            "", b"", "", True, int(row["read_prompt_tokens"]), float(row["predicted_tokens"]),
            CLASSES.index(row["class"]), int(self._sessions[k]), row["ttft_slo_s"], row["tpot_slo_s"],
        )  # fmt: skip
        self._numbers[k] = self._world.arrive(incoming, now_s)
        if not row["decisions"] and row["outcome"] == "rejected":  # beyond the gateway's own limit
            self._world.note_decision(ADMISSION_NAMES.index("reject"), 0)

    def _decides(self, row: Row, k: int, n: int, now_s: float) -> None:
        told, world = row["decisions"][n], self._world
        if n > 0:
            self._wait_no_longer(k)
            world.come_back(self._numbers[k], now_s)
        self._show(told, now_s)
        self._memory["rng"] = np.uint64(int(told["stream"], 16))
        decided = self._decider.decide()
        for r, ledger in enumerate(world.ledgers):
            if ledger.ttft is not self._log.recent(r)[0]:  # a health rule has taken the replica back
                self._log.forget_latencies(r)
        chosen = _decision(ADMISSION_NAMES.index(decided.admission), decided.replica)
        self.agreement.note(_said(told["chose"]), chosen, [ledger.in_flight for ledger in world.ledgers])
        admission, replica = _said(told.get("done") or told["chose"])
        world.note_decision(admission, replica)
        if admission == DEFER:
            self._deferred.add(k)
            world.count_deferred(1)

    def _wait_no_longer(self, k: int) -> None:
        if k in self._deferred:
            self._deferred.remove(k)
            self._world.count_deferred(-1)

    def _show(self, told: dict[str, Any], now_s: float) -> None:
        """Bring what the policy sees of the replicas up to date."""
        longest = told.get("longest_tokens") or self._own_longest
        for r, ledger in enumerate(self._world.ledgers):
            known = self._log.known(r, now_s)
            ledger.in_flight, ledger.unanswered = known.in_flight, known.unanswered
            ledger.unanswered_tokens, ledger.decoding = known.unanswered_tokens, known.decoding
            ledger.context_tokens = told["context_tokens"][r]
            ledger.last_sent_s, ledger.head_s = now_s - known.since_sent_s, now_s - known.since_head_s
            ledger.ttft, ledger.tpot = self._log.recent(r)
            ledger.failures, ledger.failed, ledger.failed_s, ledger.served, *_ = self._log.outcomes(r)
            ledger.metrics = Metrics.read(told["metrics"][r])
            self._told[r].blocks = (told.get("cached_blocks") or [0] * len(self._told))[r]
            self._world.show_longest(r, longest[r])

    def _is_sent(self, row: Row, k: int, n: int, now_s: float) -> None:
        replica = int(row["sent"][n][0])
        slo_s = math.inf if row["ttft_slo_s"] is None else row["ttft_slo_s"]
        self._log.sent(k, replica, int(row["read_prompt_tokens"]), now_s, row["arrival_s"], slo_s)
        self._world.ledgers[replica].sent += 1

    def _begins(self, row: Row, k: int, n: int, now_s: float) -> None:
        self._log.token(k, now_s, int(row["output_tokens"]))  # all at once: decisions have the context of their own
        self._world.first_token(self._numbers[k], now_s)

    def _leaves(self, row: Row, k: int, n: int, now_s: float) -> None:
        if row["outcome"] in SERVED and row["first_token_s"] is not None and n + 1 == len(row["sent"]):
            self._log.answered(k, row["finish_s"])
        elif row["sent"][n][3]:
            self._log.lost(k, now_s)
        else:
            self._log.ended(k)

    def _ends(self, row: Row, k: int, n: int, now_s: float) -> None:
        self._wait_no_longer(k)
        self._world.settle(self._numbers.pop(k), row["outcome"], now_s)


def _said(decision: list[Any]) -> tuple[int, int]:
    """Return a decision as the log has it, [name, replica]."""
    return _decision(ADMISSION_NAMES.index(decision[0]), int(decision[1]))
