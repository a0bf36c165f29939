"""Starting, ending and hurting the engines of a folder."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import burstenv
from burstenv.cluster import load_cluster
from burstenv.errors import BurstenvError
from burstenv.files import write_atomic
from burstenv.gateway.engines.command import PLATFORM, PLUGIN, serve_arguments
from burstenv.gateway.engines.folder import MODEL, Engines, read_engines
from burstenv.gateway.engines.launch import END_S, PLAN
from burstenv.gateway.engines.tiny_model import write_model
from burstenv.policies import named_mode

PINNED = "0.33.0"  # of vLLM: the executor's interface changes from one version to the next
SIGNALS = {"kill": signal.SIGKILL, "hang": signal.SIGSTOP, "go-on": signal.SIGCONT}


def start_engines(
    cluster: str,
    folder: Path,
    *,
    mode: str = "vllm",
    speed: float = 1.0,
    port: int = 8101,
    python: str = sys.executable,
    wait_s: float = 300.0,
    told: Callable[[str], None] = lambda line: None,
) -> Engines:
    """Start one vLLM server for each replica of a cluster, and wait until all are well.

    Args:
        cluster: Shipped cluster, or YAML file.
        folder: Gets the model, the logs and the description.
        mode: Batching mode whose limits the engines get.
        speed: Share of the replicas' speed at which they are paced.
        port: Port of the first; the others follow.
        python: Interpreter of the environment with vLLM.
        wait_s: Longest time to wait.
        told: Called with lines of progress.

    Raises:
        BurstenvError: If vLLM is not there or of another version, a port is taken, or an engine does not start.
    """
    _check_vllm(python)
    specs, limits = load_cluster(cluster), named_mode(mode)
    _check_free(folder, port, len(specs))
    write_model(folder / MODEL)
    ports = [port + r for r in range(len(specs))]
    model = (folder / MODEL).resolve()
    plan = [serve_arguments(spec, limits, model, p, speed) for spec, p in zip(specs, ports, strict=True)]
    write_atomic(folder / PLAN, json.dumps(plan, indent=1))
    _write_plugin(folder / "plugin")
    for old in folder.glob("*.log"):
        old.unlink()
    (folder / "pids.json").unlink(missing_ok=True)
    with (folder / "launcher.log").open("wb") as log:
        launcher = subprocess.Popen(
            [python, "-m", "burstenv.gateway.engines.launch", str(folder.resolve())],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=_environment(folder), start_new_session=True,
        )  # fmt: skip
    urls = [f"http://127.0.0.1:{p}" for p in ports]
    engines = Engines(folder, cluster, mode, speed, urls, [0] * len(specs), launcher.pid)
    engines.write()
    try:
        engines = wait_until_well(engines, wait_s, told, lambda: launcher.poll() is not None)
    except BaseException:
        end_engines(engines)
        raise
    return engines


def _check_vllm(python: str) -> None:
    """Raise unless the interpreter has vLLM of the right version and what burstenv needs beside it."""
    code = "import importlib.metadata as m, pydantic, yaml; print(m.version('vllm'))"
    try:
        found = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=120)
    except OSError as error:
        raise BurstenvError(f"{python}: cannot be run ({error.strerror})") from None
    version = found.stdout.strip()
    if found.returncode or not version:
        raise BurstenvError(
            f"{python} has no vLLM; docs/engines.md says how to install it without a GPU; name its interpreter with "
            f"--python"
        )
    if version.split("+")[0] != PINNED:
        raise BurstenvError(f"{python} has vLLM {version}, the paced executor is for {PINNED}")


def _check_free(folder: Path, port: int, count: int) -> None:
    """Raise if engines of the folder are running, or a port is taken."""
    with contextlib.suppress(BurstenvError):
        before = read_engines(folder)
        if _alive(before.launcher):
            raise BurstenvError(
                f"{folder}: its engines are running; `burstenv engines down {folder}` ends them"
            ) from None
    for number in range(port, port + count):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", number))
            except OSError as error:
                raise BurstenvError(
                    f"port {number} cannot be had ({error.strerror}); choose others with --port"
                ) from None


def _write_plugin(place: Path) -> None:
    """Write the metadata by which vLLM finds the platform; only the engines see it."""
    about = place / f"{PLUGIN}-1.0.dist-info"
    write_atomic(about / "METADATA", f"Metadata-Version: 2.1\nName: {PLUGIN}\nVersion: 1.0\n")
    write_atomic(about / "entry_points.txt", f"[vllm.platform_plugins]\n{PLUGIN} = {PLUGIN}:platform\n")
    write_atomic(place / f"{PLUGIN}.py", f'def platform():\n    return "{PLATFORM}"\n')


def _environment(folder: Path) -> dict[str, str]:
    package = Path(burstenv.__file__).resolve().parent.parent
    path = [str((folder / "plugin").resolve()), str(package), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "VLLM_PLUGINS": PLUGIN,
        "VLLM_WORKER_MULTIPROC_METHOD": "fork",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_SERVER_DEV_MODE": "1",  # for /reset_prefix_cache
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }


def wait_until_well(
    engines: Engines, wait_s: float, told: Callable[[str], None], ended: Callable[[], bool] = lambda: False
) -> Engines:
    """Wait until every engine answers; return the description with their processes.

    Raises:
        BurstenvError: If one ends, or the time is over; names its log.
    """
    waiting = dict(enumerate(engines.urls))
    until_s = time.monotonic() + wait_s
    while waiting:
        for r, url in list(waiting.items()):
            if is_well(url):
                del waiting[r]
                told(f"replica {r}: {url}")
        pids = _pids(engines)
        dead = [r for r in waiting if pids and not pids[r]]
        if ended() or dead:
            where = engines.folder / (f"replica-{dead[0]}.log" if dead else "launcher.log")
            raise BurstenvError(f"an engine has ended before it was well; its last words are in {where}")
        if time.monotonic() > until_s:
            raise BurstenvError(f"replica {min(waiting)} is not well after {wait_s:g} s; see {engines.folder}/*.log")
        time.sleep(0.25)
    engines = replace(engines, pids=_pids(engines))
    engines.write()
    return engines


def is_well(url: str, timeout_s: float = 2.0) -> bool:
    """Return whether an engine answers its health check."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=timeout_s) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def forget_prefixes(engines: Engines) -> None:
    """Empty the prefix caches of idle engines.

    Raises:
        BurstenvError: If one does not do so.
    """
    for r, url in enumerate(engines.urls):
        request = urllib.request.Request(f"{url}/reset_prefix_cache", method="POST")
        try:
            with urllib.request.urlopen(request, timeout=10.0) as answer:
                answer.read()
        except (OSError, urllib.error.URLError) as error:
            raise BurstenvError(f"replica {r} does not empty its prefix cache ({error})") from None


def _pids(engines: Engines) -> list[int]:
    try:
        return [int(pid) for pid in json.loads((engines.folder / "pids.json").read_text())]
    except (OSError, ValueError):
        return []


def hurt(engines: Engines, replica: int, how: str) -> None:
    """Kill an engine with all its processes, let it hang, or let it go on; see ``SIGNALS``.

    Raises:
        BurstenvError: If there is no such engine, or it is not running.
    """
    if not 0 <= replica < len(engines.urls):
        raise BurstenvError(f"replica {replica}: {engines.folder} has replicas 0 to {len(engines.urls) - 1}")
    pids = _pids(engines)
    try:
        if not pids or not pids[replica]:
            raise ProcessLookupError
        os.killpg(pids[replica], SIGNALS[how])
    except ProcessLookupError:
        raise BurstenvError(f"replica {replica} is not running; `burstenv engines restart` starts it anew") from None


def restart(engines: Engines, wait_s: float = 300.0, told: Callable[[str], None] = lambda line: None) -> Engines:
    """Start the engines anew that have ended, and wait until all are well.

    Raises:
        BurstenvError: If their launcher has ended.
    """
    try:
        os.kill(engines.launcher, signal.SIGHUP)
    except ProcessLookupError:
        raise BurstenvError(
            f"{engines.folder}: its engines have ended; `burstenv engines up` starts new ones"
        ) from None
    time.sleep(1.0)  # the launcher notes their new processes
    return wait_until_well(engines, wait_s, told)


def end_engines(engines: Engines) -> bool:
    """End all engines of a folder; return whether they were running."""
    if not _alive(engines.launcher):
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(engines.launcher, signal.SIGTERM)
    until_s = time.monotonic() + END_S + 5.0
    while _alive(engines.launcher) and time.monotonic() < until_s:
        with contextlib.suppress(ChildProcessError):  # where it is a child of this process
            os.waitpid(engines.launcher, os.WNOHANG)
        time.sleep(0.1)
    return True


def _alive(pid: int) -> bool:
    """Return whether a process is a launcher of engines; the number may belong to another one by now."""
    try:
        return b"burstenv.gateway.engines.launch" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
