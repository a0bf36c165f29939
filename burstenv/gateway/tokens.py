"""Reading the tokens of prompts, with the engines' own tokenizer where its files are at hand."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2.exceptions import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from burstenv.errors import BurstenvError

BYTES_PER_TOKEN = 4.0  # of English text, where no tokenizer is given
FILE = "tokenizer.json"


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of a prompt.

    Attributes:
        count: Their number.
        ids: Their ids, in order; None where they are not known, or the request has several prompts.
    """

    count: int
    ids: list[int] | None = None


class TokenCounter:
    """Counts the tokens of prompts.

    Args:
        place: ``tokenizer.json`` or a folder that holds it, as Hugging Face models come; None: a token is taken to be
            four bytes of text.

    Raises:
        BurstenvError: If the file cannot be read.
    """

    def __init__(self, place: Path | None = None):
        self._tokenizer: Any = None
        self._template: Any = None
        self._special: dict[str, str] = {}
        if place is None:
            return
        file = place / FILE if place.is_dir() else place
        from tokenizers import Tokenizer

        if not file.is_file():
            raise BurstenvError(f"{place}: holds no {FILE}; name the file, or the folder of the model")
        try:
            self._tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises bare exceptions
            raise BurstenvError(f"{file}: is no tokenizer ({error})") from None
        self._read_template(file.parent)

    @property
    def exact(self) -> bool:
        """Whether a tokenizer counts."""
        return self._tokenizer is not None

    def _read_template(self, folder: Path) -> None:
        """Read the chat template beside a tokenizer, as ``transformers`` does."""
        told = folder / "tokenizer_config.json"
        settings: dict[str, Any] = {}
        if told.is_file():
            try:
                settings = json.loads(told.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise BurstenvError(f"{told}: cannot be read ({error})") from None
        own = folder / "chat_template.jinja"
        text = own.read_text(encoding="utf-8") if own.is_file() else settings.get("chat_template")
        for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
            value = settings.get(name)
            value = value.get("content") if isinstance(value, dict) else value
            if isinstance(value, str):
                self._special[name] = value
        if isinstance(text, str):
            environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
            environment.globals["raise_exception"] = _raise
            self._template = environment.from_string(text)

    def read(self, asked: dict[str, Any], chat: bool) -> Tokens | None:
        """Return the prompt's tokens of a request's body; None if it holds no prompt."""
        return self._chat(asked) if chat else self._prompt(asked.get("prompt"))

    def _text(self, text: str, special: bool) -> Tokens:
        if self._tokenizer is None:
            return Tokens(max(1, round(len(text.encode("utf-8", "replace")) / BYTES_PER_TOKEN)))
        ids = self._tokenizer.encode(text, add_special_tokens=special).ids
        return Tokens(len(ids), ids)

    def _prompt(self, prompt: Any) -> Tokens | None:
        if isinstance(prompt, str):
            return self._text(prompt, special=True)
        if not isinstance(prompt, list) or not prompt:
            return None
        if _are_ids(prompt):
            return Tokens(len(prompt), prompt)
        if not all(isinstance(part, str) or (isinstance(part, list) and part and _are_ids(part)) for part in prompt):
            return None
        counts = (self._text(part, special=True).count if isinstance(part, str) else len(part) for part in prompt)
        return Tokens(sum(counts))

    def _chat(self, asked: dict[str, Any]) -> Tokens | None:
        messages = asked.get("messages")
        if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
            return None
        if self._template is not None:
            try:
                text = self._template.render(
                    messages=messages, tools=asked.get("tools"), add_generation_prompt=True, **self._special
                )
                return self._text(text, special=False)
            except (TemplateError, TypeError, ValueError):
                pass  # a template of one's own may ask for more; the engine has the last word on the request
        texts = (text for message in messages for text in _texts(message.get("content")))
        return Tokens(sum(self._text(text, special=False).count for text in texts))


def _are_ids(parts: list[Any]) -> bool:
    return all(isinstance(part, int) and not isinstance(part, bool) for part in parts)


def _texts(content: Any) -> list[str]:
    if isinstance(content, str):
        return [content]
    parts = content if isinstance(content, list) else []
    return [part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)]


def _raise(message: str) -> None:
    raise TemplateError(message)
