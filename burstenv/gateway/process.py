"""A gateway in a process of its own, as clients meet it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from burstenv.errors import BurstenvError

END_S = 60.0  # given to it to end


@dataclass(frozen=True)
class Running:
    """A running gateway.

    Attributes:
        url: Its address.
        pid: Its process.
    """

    url: str
    pid: int


@contextmanager
def gateway_process(options: Sequence[str]) -> Iterator[Running]:
    """Run ``burstenv serve`` with options, on any free port.

    Raises:
        BurstenvError: If it does not start; with its last words.
    """
    command = [sys.executable, "-m", "burstenv.cli", "serve", "--port", "0", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        said: list[str] = []
        for line in process.stderr:
            said.append(line.strip())
            address = re.search(r"serves (http://\S+),", line)
            if address is not None:
                break
        else:
            raise BurstenvError(f"the gateway did not start: {' '.join(said[-1:]) or 'it said nothing'}")
        yield Running(address[1], process.pid)
    finally:
        process.terminate()
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stderr.close()
