"""Look-ahead: try every choice in a copy of the cluster and take the best.

One-step policy improvement by simulation, known as rollout (Tesauro and Galperin, NIPS 1996; Bertsekas, Tsitsiklis and
Wu, J. Heuristics 1997). For the request at the gateway, a *base* continues after each choice (reject, or any replica)
for ``horizon_s`` of arrivals, and all requests that arrived by then run to their end. The reward of these requests is
the score of the choice.

``oracle-lookahead(...):BASE``
    simulates the true future, so it is privileged: a yardstick and a teacher. It keeps the best sequence of decisions
found so far and replaces it only by a better one ("fortified rollout", Bertsekas, 1997). With several bases,
``BASE+BASE``, each continues from any choice. With ``passes`` above 1 the episode is planned again from the best
sequence, and the best plan is played. Its bases are composites. ``lookahead(...):BASE``
    simulates ``futures`` sampled futures, the same for every choice: output lengths from the distribution of the
    training split and the predictor, given the tokens produced so far, and the arrivals of a block of the recent past.
    It replaces its base's choice only by one that is better by ``margin`` and ``margin_errors`` standard errors. Its
    base is a composite, or an agent: ``lookahead:agent:NAME`` (:mod:`burstenv.envs.play.agent_lookahead`).

The causal one copies the engine's present state, except lengths, future arrivals and the clients' hidden state. With
stale metrics it starts from the state at the last visible reading and replays its decisions since then. It raises an
error in scenarios with closed-loop sessions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from burstenv.errors import BurstenvError
from burstenv.policies.composite import Composite, parse_composite, parse_parameters
from burstenv.policies.lookahead.steps import REWARDS
from burstenv.policies.network.policy import PREFIX, NetworkPolicy, load_network_policy
from burstenv.policies.rule import Parameter, Range, Rule

CAUSAL, CLAIRVOYANT = "lookahead", "oracle-lookahead"

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
    """Look-ahead over composites, or over an agent, with all its parameters.

    Attributes:
        rule: One of ``RULES``.
        parameters: Their values, in the order of the declaration.
        bases: The first is the base, a composite or, for the causal one, an agent; further ones, composites, only for
            the clairvoyant.
    """

    rule: Rule
    parameters: tuple[float, ...]
    bases: tuple[Composite | NetworkPolicy, ...]

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
    def agent(self) -> NetworkPolicy | None:
        """The base, if it is an agent."""
        return next((base for base in self.bases if isinstance(base, NetworkPolicy)), None)

    @property
    def composites(self) -> tuple[Composite, ...]:
        """The bases that are composites."""
        return tuple(base for base in self.bases if isinstance(base, Composite))

    @property
    def digest(self) -> str | None:
        """Its identity, for a journal; None: its name says all."""
        return None if self.agent is None else sha256(f"{self.name} {self.agent.digest}".encode()).hexdigest()

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
        if self.agent is not None:
            return self.agent.modes
        return tuple(dict.fromkeys(base.batching for base in self.composites))

    def check(self, mode_names: Sequence[str]) -> None:
        """Raise a one-sentence error if the scenario lacks a mode, or a base is in Python."""
        if self.agent is not None:
            self.agent.check(mode_names)
        for base in self.composites:
            base.record(mode_names)


def is_lookahead(text: str) -> bool:
    """Return whether a policy's text is a look-ahead."""
    return re.match(rf"^({CAUSAL}|{CLAIRVOYANT})\b", text) is not None


def parse_lookahead(text: str) -> LookaheadPolicy:
    """Read ``lookahead(horizon_s=10,futures=8):BASE`` or ``oracle-lookahead(...):BASE+BASE``.

    Raises:
        BurstenvError: If the base is missing, a name is unknown, a value out of range, or a base decides about more
            than requests.
    """
    match = _TEXT.match(text.strip())
    if match is None or not match["bases"]:
        raise BurstenvError(
            f"policy {text!r} needs a base after a colon, such as "
            f"lookahead(horizon_s=10,futures=4):size-aware-kv/expected-ttft/edf-256"
        )
    rule = next(rule for rule in RULES if rule.name == match["name"])
    values = parse_parameters(rule, match["parameters"])
    if match["bases"].startswith(PREFIX):
        return LookaheadPolicy(rule, values, (_agent_of(rule, match["bases"]),))
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


def _agent_of(rule: Rule, text: str) -> NetworkPolicy:
    """Return the agent of a base's text, or raise a one-sentence error if look-ahead cannot continue as it does."""
    if rule.oracle:
        raise BurstenvError(f"{rule.name} needs composites as its bases; {CAUSAL} takes an agent, such as {text}")
    agent = load_network_policy(text)
    if agent.oracle:
        raise BurstenvError(f"base {agent.name} sees true output lengths, which {rule.name} draws")
    if not agent.compiled:
        raise BurstenvError(
            f"base {agent.name} runs in another runtime; {rule.name} needs a compiled agent, an .npz file"
        )
    other = [part for part in agent.environment["decide"] if part not in ("admission", "routing", "batching")]
    if other:
        raise BurstenvError(
            f"base {agent.name} decides {other[0]}, and look-ahead decides about requests at the gateway alone"
        )
    return agent


def _bases(text: str) -> list[str]:
    """Return the bases of a text; a plus within one stands before a health rule, in the second of its parts."""
    bases: list[str] = []
    for part in re.split(r"\+(?![^()]*\))", text):
        if bases and bases[-1].count("/") < 2:
            bases[-1] += f"+{part}"
        else:
            bases.append(part)
    return bases
