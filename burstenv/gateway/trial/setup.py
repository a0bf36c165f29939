"""A gateway in front of engines without a model, each in a process of its own: the gateway's never uses two cores."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from burstenv.gateway.process import gateway_process

CLUSTER = "default"  # four replicas
REPLICAS = 4


@dataclass(frozen=True)
class Setup:
    """Where to send requests.

    Attributes:
        gateway: Address of the gateway.
        direct: Addresses of the engines behind it.
        pid: Process of the gateway.
    """

    gateway: str
    direct: list[str]
    pid: int

    def busy_s(self) -> float:
        """Return the processor time that the gateway has used [s]."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory_mib(self) -> float:
        """Return the gateway's resident memory [MiB]."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024.0


@contextmanager
def running(policy: str, log: Path | None = None) -> Iterator[Setup]:
    """Run a gateway and its engines."""
    with ExitStack() as stack:
        engines = stack.enter_context(_engines())
        assert engines.stdout is not None
        urls = [f"http://127.0.0.1:{port}" for port in engines.stdout.readline().split()]
        options = [word for url in urls for word in ("--engine", url)]
        options += ["--policy", policy, "--cluster", CLUSTER, *(() if log is None else ("--log", str(log)))]
        gateway = stack.enter_context(gateway_process(options))
        yield Setup(gateway.url, urls, gateway.pid)


@contextmanager
def _engines() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "burstenv.gateway.trial.engine", str(REPLICAS)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.terminate()
        process.communicate()
