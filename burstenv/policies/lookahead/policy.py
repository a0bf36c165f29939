"""Look-ahead: try every choice in a copy of the cluster and take the best.

One-step policy improvement by simulation, known as rollout (Tesauro and Galperin, NIPS 1996; Bertsekas, Tsitsiklis and
Wu, J. Heuristics 1997). For the request at the gateway, a *base* composite continues after each choice (reject, or any
replica) for ``horizon_s`` of arrivals, and all requests that arrived by then run to their end. The reward of these
requests is the score of the choice.

``oracle-lookahead(...):BASE``
    simulates the true future, so it is privileged: a yardstick and a teacher. It keeps the best sequence of decisions
found so far and replaces it only by a better one ("fortified rollout", Bertsekas, 1997). With several bases,
``BASE+BASE``, each continues from any choice. With ``passes`` above 1 the episode is planned again from the best
sequence, and the best plan is played. ``lookahead(...):BASE``
    simulates ``futures`` sampled futures, the same for every choice: output lengths from the distribution of the
    training split and the predictor, given the tokens produced so far, and the arrivals of a block of the recent past.
    It replaces its base's choice only by one that is better by ``margin`` and ``margin_errors`` standard errors.

The causal one copies the engine's present state, except lengths, future arrivals and the clients' hidden state. With
stale metrics it starts from the state at the last visible reading and replays its decisions since then. It raises an
error in scenarios with closed-loop sessions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from burstenv.cluster import ClientsConfig, Cluster
from burstenv.cluster.output_lengths import LengthModel
from burstenv.cluster.snapshot import put_row, take_row
from burstenv.engine.enums import ATTAINED, NO_REQUEST, REJECTED
from burstenv.errors import BurstenvError
from burstenv.policies.composite import Composite, parse_composite, parse_parameters
from burstenv.policies.health_rules import HEDGE
from burstenv.policies.lookahead.steps import REWARDS
from burstenv.policies.rule import Parameter, Range, Rule

CAUSAL, CLAIRVOYANT = "lookahead", "oracle-lookahead"
WHOLE = 2**40  # decisions: as many as an episode has

_HORIZON = Parameter("horizon_s", 5.0, Range(2.0, 60.0, "log"), "simulated arrivals [s]")
_REPLICAS = Parameter("replicas", 8.0, Range(2, 64, "integer"), "largest number of replicas tried", 1.0, 1_024.0)
_REWARD = Parameter("reward", 0.0, Range(0, 2, "integer"), "0 " + ", ".join(REWARDS) + " 2")
_SOURCE = "Rollout: Tesauro and Galperin (NIPS 1996); Bertsekas, Tsitsiklis and Wu (J. Heuristics, 1997)."
RULES = (
    Rule(
        -1,
        CAUSAL,
        "Try every choice in sampled futures and take the best, by a margin.",
        _SOURCE,
        "Lengths are drawn given the tokens so far, arrivals from the recent past; all choices meet the same futures.",
        (
            _HORIZON,
            Parameter("futures", 8.0, Range(1, 32, "integer"), "sampled futures per decision", 1.0, 1_024.0),
            Parameter("margin", 0.25, Range(0.0, 4.0), "least improvement over the base's choice [reward]"),
            Parameter("margin_errors", 1.0, Range(0.0, 4.0), "the same in standard errors"),
            Parameter(
                "history_s", 30.0, Range(5.0, 120.0, "log"), "length of the past that arrivals are drawn from [s]"
            ),
            _REPLICAS,
            _REWARD,
        ),
    ),
    Rule(
        -1,
        CLAIRVOYANT,
        "Try every choice in the true future and take the best.",
        _SOURCE,
        "True lengths and arrivals: a yardstick, not a policy.",
        (
            _HORIZON,
            Parameter("passes", 1.0, Range(1, 8, "integer"), "number of plans of an episode", 1.0, 1_000.0),
            _REPLICAS,
            _REWARD,
        ),
        oracle=True,
    ),
)
_TEXT = re.compile(rf"^(?P<name>{CAUSAL}|{CLAIRVOYANT})(?:\((?P<parameters>[^()]*)\))?(?::(?P<bases>.*))?$")


@dataclass(frozen=True)
class LookaheadPolicy:
    """Look-ahead over composites, with all its parameters.

    Attributes:
        rule: One of ``RULES``.
        parameters: Their values, in the order of the declaration.
        bases: The composites; the first is the base, further ones only for the clairvoyant.
    """

    rule: Rule
    parameters: tuple[float, ...]
    bases: tuple[Composite, ...]

    @property
    def name(self) -> str:
        """The name, readable by ``load_policy``."""
        return f"{self.rule.written(self.parameters)}:{'+'.join(base.name for base in self.bases)}"

    @property
    def named(self) -> dict[str, float]:
        """The parameters by name."""
        return dict(zip(self.rule.parameters, self.parameters, strict=True))

    @property
    def oracle(self) -> bool:
        """Whether it uses true output lengths or future arrivals."""
        return self.rule.oracle or any(base.oracle for base in self.bases)

    @property
    def floor(self) -> bool:
        """Whether it is bad on purpose: no."""
        return False

    @property
    def compiled(self) -> bool:
        """Whether the compiled step of an environment can run it: no."""
        return False

    @property
    def modes(self) -> tuple[str, ...]:
        """The batching modes it names."""
        return tuple(dict.fromkeys(base.batching for base in self.bases))

    def check(self, mode_names: Sequence[str]) -> None:
        """Raise a one-sentence error if the scenario lacks a mode, or a base is in Python."""
        for base in self.bases:
            base.record(mode_names)


def check_base(base: Composite, cluster: Cluster) -> None:
    """Raise a one-sentence error where a base reads a log that is hidden, or sends requests a second time."""
    if base.health is not None and base.health.rule.code == HEDGE:
        raise BurstenvError(
            f"policy {base.name}: look-ahead does not simulate second copies of requests; leave out hedge"
        )
    base.prepare(cluster)


def check_not_scaled(cluster: Cluster) -> None:
    """Raise a one-sentence error where replicas are scaled: a copy of a cluster, without arrivals, never ends."""
    if cluster.scaling is not None:
        raise BurstenvError("look-ahead simulates as many replicas as there are; in this scenario they are scaled")


def is_lookahead(text: str) -> bool:
    """Return whether a policy's text is a look-ahead."""
    return re.match(rf"^({CAUSAL}|{CLAIRVOYANT})\b", text) is not None


def parse_lookahead(text: str) -> LookaheadPolicy:
    """Read ``lookahead(horizon_s=10,futures=8):BASE`` or ``oracle-lookahead(...):BASE+BASE``.

    Raises:
        BurstenvError: If the base is missing, a name is unknown or a value out of range.
    """
    match = _TEXT.match(text.strip())
    if match is None or not match["bases"]:
        raise BurstenvError(
            f"policy {text!r} needs a base after a colon, such as "
            f"lookahead(horizon_s=10,futures=4):size-aware-kv/expected-ttft/edf-256"
        )
    rule = next(rule for rule in RULES if rule.name == match["name"])
    values = parse_parameters(rule, match["parameters"])
    bases = tuple(map(parse_composite, _bases(match["bases"])))
    if len(bases) > 1 and not rule.oracle:
        raise BurstenvError(f"{rule.name} has one base; several are for {CLAIRVOYANT}")
    for base in bases:
        further = base.migration or base.scaling
        if further is not None:
            raise BurstenvError(
                f"base {base.name} has a fourth part, and look-ahead decides about requests at the gateway alone; "
                f"leave out {further}"
            )
        if base.oracle and not rule.oracle:
            raise BurstenvError(f"base {base.name} sees true output lengths; use {CLAIRVOYANT} over it")
    return LookaheadPolicy(rule, values, bases)


def _bases(text: str) -> list[str]:
    """Return the bases of a text; a plus within one stands before a health rule, in the second of its parts."""
    bases: list[str] = []
    for part in re.split(r"\+(?![^()]*\))", text):
        if bases and bases[-1].count("/") < 2:
            bases[-1] += f"+{part}"
        else:
            bases.append(part)
    return bases


class Lookahead:
    """Look-ahead in a batch of clusters.

    Args:
        cluster: The clusters, such as ``env.batch.cluster`` of a vector environment.
        policy: A look-ahead, or its text.

    Raises:
        BurstenvError: If the clusters lack a mode, if their replicas are scaled, or if a causal look-ahead meets
            replicas that fail or sessions in a closed loop.
    """

    def __init__(self, cluster: Cluster, policy: LookaheadPolicy | str):
        self.policy = parse_lookahead(policy) if isinstance(policy, str) else policy
        self.policy.check(cluster.mode_names)
        for base in self.policy.bases:
            check_base(base, cluster)
        self._cluster = cluster
        self._causal = not self.policy.rule.oracle
        self._stale = bool((cluster.state.gateway["scrape_period_s"] > 0.0).any())
        if self._causal and cluster.clients is not None and cluster.clients.closed_loop is not None:
            raise BurstenvError(
                f"{CAUSAL} does not sample turns that wait for the answer to the turn before, as in this scenario; "
                f"{CLAIRVOYANT} works there, as a yardstick"
            )
        if self._causal and cluster.recovery is not None:
            raise BurstenvError(
                f"{CAUSAL} does not sample the faults of replicas, as in this scenario; {CLAIRVOYANT} works there, "
                f"as a yardstick"
            )
        check_not_scaled(cluster)
        self._policies = np.concatenate([base.record(cluster.mode_names) for base in self.policy.bases])
        self._settings = _settings(self.policy, cluster.clients)
        self._lengths = _lengths_of(cluster).tables()
        n, count = len(cluster.state.environments), cluster.num_replicas
        self.values: NDArray[np.float64] = np.full((n, 1 + count), np.nan)
        self.decisions: NDArray[np.int64] = np.zeros((n, 3), np.int64)
        self._shortlist = np.zeros(count, np.int8)
        self._moments = np.zeros((2, 1 + count))
        futures = max(1, int(self._settings["futures"][0]))
        self._ends, self._owns = np.zeros(futures, np.int64), np.zeros(futures)
        self._room = 0
        self._readings: dict[int, tuple[Any, ...]] = {}  # with their notes, of the clusters in play
        self._plans: NDArray[np.int32] = np.zeros((n, 0), np.int32)
        self._fates: NDArray[np.int8] = np.zeros((n, 0), np.int8)
        self._covered = np.full((n, 1), -np.inf)
        self._make_room()

    def _make_room(self) -> None:
        """Follow the cluster's arrays, which grow with the longest episode."""
        from burstenv.policies.lookahead.clone import copies
        from burstenv.policies.lookahead.futures import MOST_ARRIVALS
        from burstenv.policies.lookahead.steps import UNPLANNED

        state = self._cluster.state
        room = state.requests.shape[1]
        if room != self._room:
            ahead = room + (0 if self.policy.rule.oracle else MOST_ARRIVALS) + 1
            self._scratch = copies(state.like(len(self._ends) + 1, ahead))
            self._trial = np.full(ahead, UNPLANNED, np.int32)
            self._nothing = np.full(ahead, UNPLANNED, np.int32)
            plans = np.full((len(state.environments), ahead), UNPLANNED, np.int32)
            shared = min(self._room, room)
            plans[:, :shared] = self._plans[:, :shared]
            fates = np.zeros(plans.shape, np.int8)
            fates[:, :shared] = self._fates[:, :shared]
            self._plans, self._fates, self._room = plans, fates, room
            self._readings.clear()
        self._source = copies(state)

    def _readings_of(self, i: int) -> tuple[Any, ...]:
        """Return the readings of cluster ``i`` and the notes about them; unused ones have size 0."""
        from burstenv.policies.lookahead.clone import copies
        from burstenv.policies.lookahead.stale_metrics import NOTES

        if not (self._causal and self._stale):
            return self._scratch, np.zeros(1, NOTES)
        if i not in self._readings:
            three = self._cluster.state.like(3, self._room + 1)
            self._readings[i] = copies(three), np.zeros(1, NOTES)
        return self._readings[i]

    def forget(self, i: int) -> None:
        """Clear the plan for cluster ``i``, before another episode or after other decisions."""
        self._plans[i], self._fates[i], self._covered[i] = -1, 0, -np.inf

    def _call(self, i: int, max_decisions: int) -> int:
        from burstenv.policies.lookahead.kernels import look_ahead

        self._make_room()
        decisions = look_ahead(
            self._source, i, self._scratch, *self._readings_of(i), self._policies, self._lengths, self._settings,
            self._plans[i], self._fates[i], self._covered[i], self._trial, self._nothing, self.values, self._shortlist,
            self._moments, self._ends, self._owns, self.decisions, max_decisions,
        )  # fmt: skip
        return int(decisions)

    def ask(self, places: Sequence[int] | None = None) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return the worth of every choice in environments at a decision epoch, and the best choice.

        The clusters do not change. Each call starts a new plan: other policies may decide between two calls.

        Args:
            places: Indices of the environments; None: all.

        Returns:
            values: (N, 1 + R) expected reward within the horizon of rejecting, and of each replica; NaN for choices
            without a finished trial: all at a tick or after the episode, all except the base's own where no other
            can help, and those that were given up because they lose too much.
            choice: (N,) 0 to reject, 1 + r for replica r, as in the flat action space; -1 at ticks and when done.

        Raises:
            BurstenvError: For the causal one with stale metrics, which must have made the earlier decisions itself.
        """
        if self._causal and self._stale:
            raise BurstenvError(
                f"{CAUSAL} with stale metrics knows only its own decisions; let it run the whole episode"
            )
        state, memories = self._cluster.state.environments, self._cluster.state.memories
        chosen = range(len(state)) if places is None else places
        choices = np.full(len(state), NO_REQUEST, np.int64)
        self.values[...] = np.nan
        for i in chosen:
            if state["done"][i] or state["at_gateway"][i] == NO_REQUEST:
                continue
            self.forget(i)
            kept = memories[i : i + 1].copy()  # the base's own decision may change it
            self._call(i, 0)
            memories[i : i + 1] = kept
            admission, replica, _ = self.decisions[i].tolist()
            choices[i] = 1 + replica if admission == 1 else 0
        return self.values, choices

    def decision(self, i: int) -> tuple[int, int, int]:
        """Return (admission, replica, mode) for the present epoch in environment ``i``."""
        self._call(i, 0)
        admission, replica, mode = self.decisions[i].tolist()
        return admission, replica, mode

    def run(self, i: int, max_decisions: int) -> int:
        """Run environment ``i`` for some decisions, or to the end of its episode; return the number made.

        A whole episode under foresight is the best of the base's own and of each pass.
        """
        if not self._causal and not self._cluster.state.environments["decisions"][i]:
            if max_decisions >= WHOLE:
                return self._run_best(i)
            for _ in range(int(self.policy.named["passes"]) - 1):
                self._plan_episode(i)
        return self._call(i, max_decisions)

    def _plan_episode(self, i: int) -> None:
        """Play the whole episode once, and leave its decisions as the plan."""
        start = take_row(self._cluster.state, i)
        self._call(i, WHOLE)
        self._remember(i)
        put_row(self._cluster.state, i, start)

    def _remember(self, i: int) -> None:
        """Make the ends of the requests of a played episode those of the plan."""
        from burstenv.policies.lookahead.search import MISSED, REJECTION, SERVED

        count = int(self._cluster.state.environments["num_requests"][i])
        status = self._cluster.state.requests[i, :count]["status"]
        self._fates[i, :count] = np.where(status == ATTAINED, SERVED, np.where(status == REJECTED, REJECTION, MISSED))
        self._covered[i] = np.inf

    def _run_best(self, i: int) -> int:
        """Play the episode under the base, then pass by pass while they earn more; leave the best one's end."""
        from burstenv.policies.lookahead.kernels import follow

        self._make_room()
        state = self._cluster.state
        start = take_row(state, i)
        follow(self._source, i, self._policies)
        best, end = self._earned(i), take_row(state, i)
        for _ in range(int(self.policy.named["passes"])):
            put_row(state, i, start)
            self._call(i, WHOLE)
            self._remember(i)
            earned = self._earned(i)
            if earned <= best:
                break
            best, end = earned, take_row(state, i)
        put_row(state, i, end)
        return int(state.environments["decisions"][i])

    def _earned(self, i: int) -> float:
        """Return the reward of cluster ``i``, by the configured reward."""
        from burstenv.policies.lookahead.kernels import earned_at

        return float(earned_at(self._source, i, self._settings))


def _settings(policy: LookaheadPolicy, clients: ClientsConfig | None) -> np.ndarray:
    from burstenv.policies.lookahead.futures import PATIENCE_KINDS
    from burstenv.policies.lookahead.search import LOOKAHEAD

    named = policy.named
    settings = np.zeros(1, LOOKAHEAD)
    for name in ("horizon_s", "margin", "margin_errors", "futures", "replicas", "history_s"):
        settings[name] = named.get(name, 0.0)
    settings["reward"][0, int(named["reward"])] = 1.0
    patience = None if clients is None else clients.patience
    if patience is not None:
        settings["patience_kind"] = PATIENCE_KINDS.index(patience.kind)
        settings["patience_s"] = patience.seconds or 0.0
        settings["patience_multiple"] = patience.ttft_multiple or 0.0
        settings["patience_sigma"] = patience.sigma
    return settings


def _lengths_of(cluster: Cluster) -> LengthModel:
    """Return the distribution of output lengths; a replay takes predictions as exact."""
    if cluster.lengths is not None:
        return cluster.lengths()
    return LengthModel.of("exact", [np.ones(1, np.int64)] * 2)
