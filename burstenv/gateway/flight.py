"""One request on its way through the gateway, and what its answer has brought so far."""

from __future__ import annotations

import asyncio
import math
import re
from dataclasses import dataclass, field
from typing import Any

from burstenv.gateway.incoming import CHAT, Incoming
from burstenv.gateway.ledger import Ledger

_USAGE = re.compile(rb'"(prompt|completion)_tokens"\s*:\s*(\d+)')
_END_OF_EVENT = b"\n\n"
TAIL_BYTES = 4096  # of an answer, in which its end and its usage are looked for


@dataclass(slots=True, eq=False)
class Flight:
    """A request from its arrival to its end.

    Attributes:
        incoming: The request.
        number: Its number in the world.
        arrival_s: When its body had been read [s].
        replica: The replica that it was sent to last; -1 before.
        sent_s: When.
        began: Whether the first token has come.
        first_token_s: When; NaN before.
        last_byte_s: When anything of the answer came last, or the request was sent.
        tokens: Output tokens so far, counted by events; at the end by the engine's usage, if it tells.
        started: Whether anything of the answer has been sent to the client.
        defers: Deferrals so far.
        upstream: The task that relays its answer.
        aborted: Why the gateway ended that task; empty otherwise.
        decisions: What the policy decided about it and what it saw, as the log has it.
        sent: Where it was sent to: replica, when, when that ended (None: it has not) [s], whether the engine failed it.
        told_prompt_tokens: Length of the prompt as the engine tells it; None: it does not.
    """

    incoming: Incoming
    number: int
    arrival_s: float
    replica: int = -1
    sent_s: float = math.nan
    began: bool = False
    first_token_s: float = math.nan
    last_byte_s: float = math.nan
    tokens: int = 0
    started: bool = False
    defers: int = 0
    upstream: asyncio.Task[Outcome] | None = None
    aborted: str = ""
    decisions: list[dict[str, Any]] = field(default_factory=list)
    sent: list[list[Any]] = field(default_factory=list)
    told_prompt_tokens: int | None = None
    _tail: bytes = b""
    _events: int = 0

    def send(self, replica: int, ledger: Ledger, now_s: float) -> None:
        """Note that it is sent to a replica."""
        self.replica, self.sent_s, self.last_byte_s = replica, now_s, now_s
        self.sent.append([replica, round(now_s, 6), None, False])
        ledger.send(self.incoming.prompt_tokens, now_s)

    def leave(self, ledger: Ledger, now_s: float, whole: bool) -> None:
        """Note that its replica is done with it; ``whole``: with a complete answer."""
        self.sent[-1][2] = round(now_s, 6)
        ledger.end(self.incoming.prompt_tokens, self.tokens, self.began, now_s, self.tpot_s if whole else math.nan)

    def fail(self, ledger: Ledger, now_s: float) -> None:
        """Note that its replica gave no answer, or no whole one."""
        self.sent[-1][3] = True
        ledger.fail(now_s)

    @property
    def tries(self) -> int:
        """Engines it was sent to so far."""
        return len(self.sent)

    def note(self, chunk: bytes, now_s: float, ledger: Ledger) -> int:
        """Note a part of a streamed answer; return how many tokens it brought.

        Tokens are counted by server-sent events: engines send one for each iteration that brings a token. The event of
        a chat's role and the last ones, of usage and ``[DONE]``, bring none.
        """
        self.last_byte_s = now_s
        tail = self._tail
        events = chunk.count(_END_OF_EVENT)
        if tail[-1:] == b"\n" and chunk[:1] == b"\n":
            events += 1  # its end was cut in two
        if len(chunk) >= TAIL_BYTES:
            self._tail = chunk[-TAIL_BYTES:]
        else:
            self._tail = (tail + chunk)[-TAIL_BYTES:]
        self._events += events
        tokens = max(0, self._events - (self.incoming.path == CHAT) - (b"[DONE]" in chunk))
        brought = max(0, tokens - self.tokens)
        self.bring(brought, now_s, ledger)
        return brought

    def bring(self, tokens: int, now_s: float, ledger: Ledger) -> None:
        """Note tokens of the answer."""
        if tokens <= 0:
            return
        self.last_byte_s = now_s
        if not self.began:
            self.began = True
            self.first_token_s = now_s
            ledger.first_token(self.incoming.prompt_tokens, now_s - self.sent_s, now_s)
        self.tokens += tokens
        ledger.context_tokens += tokens

    @property
    def tpot_s(self) -> float:
        """Time per output token after the first [s]; NaN for fewer than two."""
        if not self.began or self.tokens < 2:
            return math.nan
        return (self.last_byte_s - self.first_token_s) / (self.tokens - 1)

    def outcome(self) -> str:
        """Return ``attained`` or ``late``, for a whole answer."""
        ttft_s = (self.first_token_s if self.began else self.last_byte_s) - self.arrival_s
        in_time = ttft_s <= (self.incoming.ttft_slo_s or math.inf)
        return "late" if not in_time or self.tpot_s > (self.incoming.tpot_slo_s or math.inf) else "attained"

    def note_body(self, body: bytes) -> None:
        """Note the end of an answer that came in one piece."""
        self._tail = body[-TAIL_BYTES:]

    def usage(self) -> tuple[int | None, int | None]:
        """Return (prompt tokens, output tokens) as the engine tells at the end of an answer; None: it does not."""
        at = self._tail.rfind(b'"usage"')
        found = {match[1]: int(match[2]) for match in _USAGE.finditer(self._tail, at)} if at >= 0 else {}
        return found.get(b"prompt"), found.get(b"completion")

    def whole(self) -> bool:
        """Return whether a streamed answer has its end."""
        return b"[DONE]" in self._tail[-64:]

    def told_error(self) -> bool:
        """Return whether the engine ended a stream with an error."""
        return b'"error"' in self._tail[-1024:] and b'"choices"' not in self._tail[-1024:].rpartition(b'"error"')[2]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the relaying of an answer ended.

    Attributes:
        status: HTTP status that the engine answered or the gateway answers for it.
        problem: Why there was no whole answer; empty otherwise.
        again: Whether another engine may be asked: nothing of an answer has been sent to the client, and what happened
            says nothing against the request itself.
        answered: Whether the client has its answer, an engine's error included.
        unreachable: Whether nothing listens at the engine's address.
    """

    status: int
    problem: str = ""
    again: bool = False
    answered: bool = False
    unreachable: bool = False
