"""Batches whose agents decide about something else than the request at the gateway."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from burstenv.envs.arguments import places_checked
from burstenv.envs.batch import EnvironmentBatch
from burstenv.envs.exchange import ALL, OPEN, SHOW
from burstenv.errors import BurstenvError
from burstenv.policies import Policy


@places_checked
class ControlBatch(EnvironmentBatch):
    """``N`` environments stepped by kernels of their own.

    Attributes:
        kernel: Takes :meth:`step_arguments`, the environment to open or show, and ALL, OPEN or SHOW.
        threads_kernel: Takes :meth:`step_arguments`, and steps all environments in threads.
        no_policy: Why no policy can act here, as an error says it.
    """

    kernel: ClassVar[Callable[..., Any]]
    threads_kernel: ClassVar[Callable[..., Any]]
    no_policy: ClassVar[str]

    def _step(self) -> None:
        if self.num_threads == 1:
            self._run(0, ALL)
        else:
            type(self).threads_kernel(*self.step_arguments())

    def _publish(self, i: int, opens: bool = False) -> None:
        self._run(i, OPEN if opens else SHOW)

    def _run(self, only: int, what: int) -> None:
        type(self).kernel(*self.step_arguments(), only, what)

    def policy_action(self, i: int, policy: Policy) -> np.ndarray:
        """Raise: policies decide about requests at the gateway."""
        raise BurstenvError(f"{self.no_policy}; use BurstGPT-v0")

    def fast_forward(self, i: int, policy: Policy, decisions: int) -> None:
        """Raise: policies decide about requests at the gateway."""
        self.policy_action(i, policy)
