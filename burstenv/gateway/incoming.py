"""What a client asks for: an OpenAI request, read as far as a policy needs it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from burstenv.gateway.lengths import OutputLengths
from burstenv.gateway.prefixes import block_keys
from burstenv.gateway.tokens import TokenCounter
from burstenv.workload import CLASSES

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
CLASS_HEADER, SESSION_HEADER = "x-burstenv-class", "x-session-id"
TTFT_HEADER, TPOT_HEADER = "x-slo-ttft-ms", "x-slo-tpot-ms"  # those of llm-d
PREDICTED_HEADER = "x-burstenv-predicted-tokens"
MOST_TOKENS = 1 << 30


class BadRequest(Exception):
    """A request that the gateway answers itself, with an OpenAI error.

    Args:
        status: HTTP status.
        message: One sentence.
        kind: OpenAI's ``type``.
    """

    def __init__(self, status: int, message: str, kind: str = "invalid_request_error"):
        super().__init__(message)
        self.status = status
        self.kind = kind


@dataclass(slots=True)
class Incoming:
    """One request.

    Attributes:
        path: ``COMPLETIONS`` or ``CHAT``.
        body: As the client sent it.
        model: Name of the model that it asks for.
        streamed: Whether the answer is streamed.
        prompt_tokens: Length of the prompt.
        predicted_tokens: Predicted length of the answer.
        class_code: Position in ``CLASSES``.
        session: Number of its conversation; -1 for none.
        ttft_slo_s: Objective on the time to first token; None: that of its class.
        tpot_slo_s: Objective on the time per output token, likewise.
        session_id: The client's own name of the conversation.
        blocks: Keys of the prompt's full KV blocks, see :mod:`burstenv.gateway.prefixes`; empty if not known.
    """

    path: str
    body: bytes
    model: str
    streamed: bool
    prompt_tokens: int
    predicted_tokens: float
    class_code: int
    session: int = -1
    ttft_slo_s: float | None = None
    tpot_slo_s: float | None = None
    session_id: str = ""
    blocks: list[int] = field(default_factory=list)


@dataclass
class Reader:
    """Reads requests.

    Attributes:
        tokens: Counts prompt tokens.
        lengths: Predicts the lengths of answers.
        longest_tokens: Longest request that any engine takes.
        block_size: Tokens of a KV block of the engines.
    """

    tokens: TokenCounter
    lengths: OutputLengths
    longest_tokens: int
    block_size: int = 16
    _sessions: dict[str, int] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)  # long bodies are read in other threads

    def read(self, path: str, headers: Mapping[str, str], body: bytes) -> Incoming:
        """Return the request of a body.

        Raises:
            BadRequest: If it is none; says what is wrong.
        """
        try:
            asked = json.loads(body)
        except (ValueError, RecursionError):
            raise BadRequest(400, "the body is no JSON") from None
        if not isinstance(asked, dict):
            raise BadRequest(400, "the body must be a JSON object")
        prompt = self.tokens.read(asked, chat=path == CHAT)
        if prompt is None:
            need = "messages, a list of objects" if path == CHAT else "prompt, a text or a list of token ids"
            raise BadRequest(400, f"the body needs {need}")
        if prompt.count + 1 > self.longest_tokens:
            raise BadRequest(
                400, f"the prompt has {prompt.count} tokens; with an answer the engines hold {self.longest_tokens}"
            )
        class_code = self._class(headers.get(CLASS_HEADER), path)
        predicted = self.lengths.predict(class_code, self._limit(asked))
        told = _number(headers, PREDICTED_HEADER)
        session_id = headers.get(SESSION_HEADER, "")
        ttft_ms, tpot_ms = _number(headers, TTFT_HEADER), _number(headers, TPOT_HEADER)
        return Incoming(
            path=path,
            body=body,
            model=str(asked.get("model") or ""),
            streamed=asked.get("stream") is True,
            prompt_tokens=max(1, prompt.count),
            predicted_tokens=predicted if told is None else max(1.0, min(told, float(self.longest_tokens))),
            class_code=class_code,
            session=self._session(session_id),
            ttft_slo_s=None if ttft_ms is None else ttft_ms / 1000.0,
            tpot_slo_s=None if tpot_ms is None else tpot_ms / 1000.0,
            session_id=session_id,
            blocks=[] if prompt.ids is None else block_keys(prompt.ids, self.block_size),
        )

    @staticmethod
    def _class(name: str | None, path: str) -> int:
        """Return a class by its name; without one chat is conversation, and completions are API calls."""
        if name is None:
            return 0 if path == CHAT else 1
        if name not in CLASSES:
            raise BadRequest(400, f"header {CLASS_HEADER}: {name!r:.40} is no class; valid: {', '.join(CLASSES)}")
        return CLASSES.index(name)

    def _limit(self, asked: dict[str, Any]) -> int | None:
        """Return the greatest answer that a client asks for; None: as long as the model will."""
        for key in ("max_completion_tokens", "max_tokens"):
            value = asked.get(key)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_TOKENS:
                raise BadRequest(400, f"{key} must be a whole number of at least 1, got {value!r:.40}")
            return value
        return None

    def _session(self, name: str) -> int:
        """Return the number of a conversation; the names of the last 100,000 are remembered."""
        if not name:
            return -1
        with self._lock:
            number = self._sessions.pop(name, None)
            if number is None:
                number = self._next = getattr(self, "_next", -1) + 1
            self._sessions[name] = number  # now the last
            if len(self._sessions) > 100_000:
                self._sessions.pop(next(iter(self._sessions)))
            return number


def _number(headers: Mapping[str, str], name: str) -> float | None:
    """Return a header's number above 0; None if it is not sent."""
    text = headers.get(name)
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 < value < 1e12:
        raise BadRequest(400, f"header {name} must be a number above 0, got {text!r:.40}")
    return value
