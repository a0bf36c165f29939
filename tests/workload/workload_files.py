"""Headers of the file schemas; files with wrong bytes, and what reading one gives."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from burstenv.errors import BurstenvError
from burstenv.workload import read_trace

SIX = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type"
EIGHT = "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type"
PLAIN = "arrival_s,prompt_tokens,output_tokens"


def read_or_sentence(path: Path) -> Any:
    """Return the trace, or the sentence that refuses it."""
    try:
        return read_trace(path)
    except BurstenvError as error:
        return str(error)


def mangled(r: random.Random, content: bytes) -> bytes:
    """Return bytes with a few of them changed, removed, repeated or cut off."""
    changed = bytearray(content)
    for _ in range(r.choice([1, 1, 2, 5])):
        at = r.randrange(len(changed))
        what = r.random()
        if what < 0.5:
            changed[at] = r.choice(b'0123456789-+:.TZ ,\n\r"{}[]e\x00\xff') if r.random() < 0.8 else r.randrange(256)
        elif what < 0.7:
            del changed[at : at + r.randrange(1, 12)]
        elif what < 0.9:
            changed[at:at] = changed[max(at - r.randrange(12), 0) : at]
        else:
            del changed[max(at, 1) :]
        if not changed:
            changed += b"x"
    return bytes(changed)
