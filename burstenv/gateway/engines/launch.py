"""The process that starts all engines of a folder and watches over them: vLLM is imported once, then forked.

``python -m burstenv.gateway.engines.launch DIR``; SIGHUP starts engines anew that have died, SIGTERM ends all.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from importlib import import_module
from pathlib import Path

PLAN = "plan.json"  # arguments of each engine, written by `burstenv engines up`
LIFE_S = 12 * 3600.0  # forgotten engines end by themselves
# Shared by all engines.
IMPORTED = ("vllm.entrypoints.cli.main", "vllm.entrypoints.openai.api_server", "vllm.v1.engine.core")
END_S = 10.0  # given to engines to end


def _start(folder: Path, replica: int, arguments: list[str]) -> int:
    """Fork an engine, the leader of a process group of its own, and return its process id."""
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    log = os.open(folder / f"replica-{replica}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.argv = ["vllm", *arguments]
    code = 1
    try:
        from vllm.entrypoints.cli.main import main

        main()
        code = 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _signal_group(pid: int, number: int) -> bool:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        return False
    return True


def main() -> int:
    """Start the engines of a folder, and end with them."""
    folder = Path(sys.argv[1])
    watched = {signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, watched)  # engines unblock them; libraries may start threads meanwhile
    for module in IMPORTED:
        import_module(module)

    plan: list[list[str]] = json.loads((folder / PLAN).read_text(encoding="utf-8"))
    pids = [_start(folder, r, arguments) for r, arguments in enumerate(plan)]
    _write(folder, pids)
    end_s = time.monotonic() + LIFE_S
    while time.monotonic() < end_s:
        told = signal.sigtimedwait(watched, 5.0)
        left = [_reaped(pid) for pid in pids]
        if left != pids:
            pids = left
            _write(folder, pids)
        if told is None or told.si_signo == signal.SIGCHLD:
            continue
        if told.si_signo != signal.SIGHUP:
            break
        pids = [pid or _start(folder, r, plan[r]) for r, pid in enumerate(pids)]
        _write(folder, pids)
    _end(pids)
    return 0


def _reaped(pid: int) -> int:
    """Return a process id, or 0 where the engine has ended; what it left running in its group ends too."""
    if pid and os.waitpid(pid, os.WNOHANG)[0] == pid:
        _signal_group(pid, signal.SIGKILL)
        return 0
    return pid


def _write(folder: Path, pids: list[int]) -> None:
    place = folder / "pids.json"
    part = place.with_suffix(".part")
    part.write_text(json.dumps(pids))
    part.replace(place)


def _end(pids: list[int]) -> None:
    for pid in filter(None, pids):
        _signal_group(pid, signal.SIGCONT)
        _signal_group(pid, signal.SIGTERM)
    until_s = time.monotonic() + END_S
    while any(pids) and time.monotonic() < until_s:
        pids = [_reaped(pid) for pid in pids]
        time.sleep(0.1)
    for pid in filter(None, pids):
        _signal_group(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    sys.exit(main())
