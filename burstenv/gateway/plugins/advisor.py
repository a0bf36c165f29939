"""A policy that advises another router: the same policy, records and log as in ``burstenv serve``.

The router says what happens to each request: it was sent, its tokens came, it ended. What it does not say the policy
does not know.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from burstenv.gateway.decider import Decider
from burstenv.gateway.flight import Flight
from burstenv.gateway.incoming import CHAT, COMPLETIONS, Incoming, Reader
from burstenv.gateway.ledger import Ledger
from burstenv.gateway.lengths import OutputLengths
from burstenv.gateway.prefixes import SentBlocks
from burstenv.gateway.scene import scene_for_gateway
from burstenv.gateway.tokens import TokenCounter
from burstenv.gateway.world import LiveWorld


class Advisor:
    """Decides about requests. Not for several threads at once.

    Args:
        policy: See :func:`burstenv.policies.load_policy`.
        cluster: The replicas, in the router's order: shipped cluster or YAML file; None: the scenario's.
        scenario: Objectives, deferral, observation.
        mode: Batching mode that the engines run; None: the scenario's first.
        tokenizer: The model's tokenizer, to count prompts; None: four bytes a token.
        seed: Seed of the policy's random stream.

    Raises:
        BurstenvError: If the policy needs what is not there.
    """

    def __init__(
        self,
        policy: str,
        cluster: str | None = None,
        scenario: str = "default",
        mode: str | None = None,
        tokenizer: str | Path | None = None,
        seed: int = 0,
    ):
        scene = scene_for_gateway(scenario, cluster, policy)
        mode = mode or scene.mode_names[0]
        tokens = TokenCounter(None if tokenizer is None else Path(tokenizer))
        longest = max(spec.max_model_len for spec in scene.specs)
        cached = [SentBlocks(spec.num_blocks) for spec in scene.specs] if tokens.exact else None
        self._zero = time.monotonic()
        self.world = LiveWorld(scene, mode, seed=seed, cached=cached)
        self.decider = Decider(policy, self.world, mode)
        self.reader = Reader(tokens, OutputLengths(), longest, scene.specs[0].block_size)

    def now_s(self) -> float:
        """Return the time since the beginning [s]."""
        return time.monotonic() - self._zero

    def read(self, body: bytes, headers: Mapping[str, str] | None = None, chat: bool = True) -> Incoming:
        """Return a request of OpenAI's form.

        Raises:
            BadRequest: If it is none.
        """
        return self.reader.read(CHAT if chat else COMPLETIONS, headers or {}, body)

    def set_available(self, replica: int, available: bool) -> None:
        """Say whether a replica takes requests."""
        self.world.set_available(replica, available)

    def ask(self, incoming: Incoming) -> Advice:
        """Return the policy's decision about a request that has arrived."""
        number = self.world.arrive(incoming, self.now_s())
        return self._decided(Advice(self, incoming, number))

    def again(self, advice: Advice) -> Advice:
        """Return the decision about a deferred request that has come back."""
        self.world.come_back(advice.number, self.now_s())
        return self._decided(advice)

    def _decided(self, advice: Advice) -> Advice:
        decided = self.decider.decide()
        if decided.admission == "defer" and not self.world.may_defer(advice.number):
            decided.admission = "reject"
        prompt = advice.incoming.prompt_tokens
        if decided.admission == "admit" and not self.world.accepts(decided.replica, prompt):
            open_ones = [r for r in range(len(self.world.ledgers)) if self.world.accepts(r, prompt)]
            decided.admission, decided.replica = ("admit", open_ones[0]) if open_ones else ("reject", 0)
        self.world.note_decision(("reject", "admit", "defer").index(decided.admission), decided.replica)
        advice.admission, advice.replica = decided.admission, decided.replica
        if decided.admission == "admit":
            advice.flight.send(decided.replica, self.world.ledgers[decided.replica], self.now_s())
            self.world.note_sent(advice.number, decided.replica)
        elif decided.admission == "reject":
            self.world.settle(advice.number, "rejected", self.now_s())
        return advice


class Advice:
    """A decision, and what becomes of its request.

    Attributes:
        admission: ``reject``, ``admit`` or ``defer``.
        replica: The chosen replica, where it is admitted.
    """

    def __init__(self, advisor: Advisor, incoming: Incoming, number: int):
        self._advisor, self.incoming, self.number = advisor, incoming, number
        self.admission, self.replica = "", 0
        self.flight = Flight(incoming, number, advisor.now_s())
        self._over = False

    @property
    def under_way(self) -> bool:
        """Whether its answer is awaited."""
        return self.admission == "admit" and not self._over

    def chunk(self, data: bytes) -> None:
        """Note a part of a streamed answer, server-sent events."""
        if self.under_way:
            self._noted(lambda now_s, ledger: self.flight.note(data, now_s, ledger))

    def tokens(self, count: int = 1) -> None:
        """Note tokens of the answer, where the router counts them itself."""
        if self.under_way:
            self._noted(lambda now_s, ledger: self.flight.bring(count, now_s, ledger))

    def _noted(self, note: Callable[[float, Ledger], object]) -> None:
        before = self.flight.began
        note(self._advisor.now_s(), self._advisor.world.ledgers[self.replica])
        if self.flight.began and not before:
            self._advisor.world.first_token(self.number, self.flight.first_token_s)

    def end(self, whole: bool = True) -> None:
        """Note the end of the answer, or that a deferred request's client has left."""
        if self.admission == "defer" and not self._over:
            self._over = True
            self._advisor.world.settle(self.number, "cancelled", self._advisor.now_s())
        if not self.under_way:
            return
        self._over = True
        flight, now_s = self.flight, self._advisor.now_s()
        if not flight.began:
            flight.last_byte_s = now_s
        flight.leave(self._advisor.world.ledgers[self.replica], now_s, whole)
        self._advisor.world.settle(self.number, flight.outcome() if whole else "failed", now_s)
