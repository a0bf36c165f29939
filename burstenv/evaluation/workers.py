"""Run tasks on the cores of this machine, or on a Ray cluster, with the same results."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from burstenv.errors import BurstenvError

TaskT = TypeVar("TaskT")
ResultT = TypeVar("ResultT")

POLICY_MODULES = "burstenv_policies_"  # see policies/load.py
_AHEAD = 4  # tasks sent to each worker
_run: Callable[[Any], Any] | None = None  # in a worker: runs a task


def available_cores() -> int:
    """Return the number of cores available to this process."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_tasks(run: Callable[[TaskT], ResultT], tasks: Sequence[TaskT], workers: int) -> Iterator[ResultT]:
    """Yield the result of every task, in any order.

    With one worker, tasks run here. On Linux workers are forked: they share all drawn, loaded and compiled data, and
    end with this process in any case. On other systems they are started anew, and ``run`` has to be picklable.

    Args:
        run: Runs a task.
        tasks: The tasks.
        workers: Number of processes.

    Raises:
        BurstenvError: If a worker dies, or an error of ``run``.
    """
    if workers <= 1 or len(tasks) <= 1:
        for task in tasks:
            yield run(task)
        return
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with ProcessPoolExecutor(
        min(workers, len(tasks)), mp_context=context, initializer=_begin, initargs=(run, os.getpid())
    ) as pool:
        waiting = iter(tasks)
        pending: set[Future[Any]] = set()
        try:
            while True:
                for task in waiting:
                    pending.add(pool.submit(_run_one, task))
                    if len(pending) >= _AHEAD * workers:
                        break
                if not pending:
                    return
                finished, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in finished:
                    yield future.result()
        except BrokenProcessPool:
            raise BurstenvError(
                "a worker process died, perhaps out of memory; run the same command again to continue where it "
                "stopped, with fewer --workers"
            ) from None
        finally:
            for future in pending:
                future.cancel()


def connected_ray(address: str | None = None) -> Any:
    """Return the module of Ray, connected to a cluster.

    Args:
        address: Of the cluster, such as ``auto`` or ``ray://head:10001``; None: a running one, else one on this
            machine.

    Raises:
        BurstenvError: Without Ray, or where the cluster cannot be reached.
    """
    try:
        import ray  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        raise BurstenvError("--ray needs Ray; install it with: pip install 'burstenv[ray]'") from None
    if not ray.is_initialized():
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise BurstenvError(f"the Ray cluster at {address or 'this machine'} cannot be reached ({error})") from None
    for name, module in list(sys.modules.items()):
        if name.startswith(POLICY_MODULES):  # users' files, which the cluster's workers cannot import
            ray.cloudpickle.register_pickle_by_value(module)
    return ray


def ray_cores(ray: Any) -> int:
    """Return the number of cores of a Ray cluster."""
    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def run_tasks_on_ray(
    run: Callable[[TaskT], ResultT], tasks: Sequence[TaskT], address: str | None = None
) -> Iterator[ResultT]:
    """Yield the result of every task, in any order, run by the workers of a Ray cluster.

    Args:
        run: Runs a task; sent to the cluster once.
        tasks: The tasks.
        address: As :func:`connected_ray`.

    Raises:
        BurstenvError: As :func:`connected_ray`, or an error of ``run``.
    """
    ray = connected_ray(address)
    shared = ray.put(run)
    remote = ray.remote(_run_remotely)
    waiting = iter(tasks)
    pending: list[Any] = []
    most = _AHEAD * ray_cores(ray)
    while True:
        for task in waiting:
            pending.append(remote.remote(shared, task))
            if len(pending) >= most:
                break
        if not pending:
            return
        finished, pending = ray.wait(pending, num_returns=1)
        for reference in finished:
            yield ray_result(ray, reference)


def ray_result(ray: Any, reference: Any) -> Any:
    """Return the result of a remote call; its own error where it failed with a BurstenvError."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause if isinstance(getattr(error, "cause", None), BurstenvError) else None
        raise cause or error from None


def _run_remotely(run: Callable[[Any], Any], task: Any) -> Any:
    return run(task)


def _begin(run: Callable[[Any], Any], parent: int) -> None:
    global _run
    _run = run
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)  # the workers use the cores


def _end_with(parent: int) -> None:
    """End this worker with its parent: a killed evaluation leaves no processes behind."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _run_one(task: Any) -> Any:
    assert _run is not None
    return _run(task)
