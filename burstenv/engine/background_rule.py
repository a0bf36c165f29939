"""When a replica works on a fine-tuning job beside inference: the numbers that rules, agents and configurations set."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real

from burstenv.errors import BurstenvError

WHOLE_STEPS = 1  # what an iteration shares is the forward pass of a whole step; the backward pass follows it alone
DECODES_ALONE = 2  # an iteration that computes a part of a prompt shares none
ONE_BY_ONE = 4  # an iteration admits one request at most
LOOKS_AHEAD = 8  # a request is due if it would be after the next step
ALL_FLAGS = 15  # the sum of all
MOST_SHARED_TOKENS = 1_000_000  # more than an iteration has

QUANTUM_TOKENS = 16  # tokens of a shared iteration under a target time are a multiple of this
PAUSED = -1.0  # the deferral bound of a replica that runs no steps apart
ENDLESS = 2**62  # units of a job without an end


@dataclass(frozen=True)
class BackgroundRule:
    """When a replica works on its job.

    Attributes:
        bound_s: Between steps inference goes on if the oldest waiting request has waited so long [s]. 0: steps run on
            an idle replica alone; infinity: requests wait until the job is done; ``PAUSED``: no step runs apart.
        tokens: Prefill tokens of the job's work in an iteration of inference, at most, after those of its requests.
        target_s: An iteration takes so many of them that it is no longer than this [s].
        allowance_s: With ``WHOLE_STEPS``: once backward passes have delayed a request for so long, iterations share no
            more steps until it has its answer [s].
        flags: A sum of ``WHOLE_STEPS``, ``DECODES_ALONE``, ``ONE_BY_ONE`` and ``LOOKS_AHEAD``.

    Raises:
        BurstenvError: On a value out of range.
    """

    bound_s: float = 0.0
    tokens: int = 0
    target_s: float = math.inf
    allowance_s: float = math.inf
    flags: int = 0

    def __post_init__(self) -> None:
        for name, least in (("bound_s", 0.0), ("target_s", 1e-6), ("allowance_s", 0.0)):
            value = getattr(self, name)
            right = isinstance(value, Real) and not isinstance(value, bool) and float(value) >= least
            if not right and not (name == "bound_s" and value == PAUSED):
                more = f", or {PAUSED:g}: no step runs apart" if name == "bound_s" else ""
                raise BurstenvError(
                    f"{name} of a background rule must be a number of at least {least:g} s{more}, got {value!r}"
                )
        for name, most in (("tokens", MOST_SHARED_TOKENS), ("flags", ALL_FLAGS)):
            value = getattr(self, name)
            if not isinstance(value, Integral) or isinstance(value, bool) or not 0 <= int(value) <= most:
                raise BurstenvError(f"{name} of a background rule must be a whole number of 0 to {most}, got {value!r}")


@dataclass(frozen=True)
class BackgroundWork:
    """A fine-tuning job on one replica, resolved.

    Work is counted in units: a prefill token is ``pieces`` of them, a step ``work_tokens`` x ``pieces``. So both the
    tokens of an iteration and the pieces of a step that is interrupted are whole numbers of units.

    Attributes:
        step_tokens: Tokens that a step trains.
        work_tokens: Its work, in prefill tokens: forward and backward.
        pieces: Parts of a step after which inference can go on.
        sequence_tokens: Length of the sequences that it trains.
        step_s: Duration of a step alone on the replica [s].
        units: Of the whole job; ``ENDLESS``: it has no end.
        gpu_share: Share of a step's time that a slower GPU stretches; the rest is the host's.
    """

    step_tokens: int
    work_tokens: int
    pieces: int
    sequence_tokens: int
    step_s: float
    units: int
    gpu_share: float = 1.0

    @property
    def step_units(self) -> int:
        """Units of a step."""
        return self.work_tokens * self.pieces

    @property
    def unit_s(self) -> float:
        """Time that a unit takes apart [s]."""
        return self.step_s / self.step_units

    @property
    def pairs(self) -> int:
        """Query-key pairs of a prefill token of the work: the mean of a sequence."""
        return (self.sequence_tokens + 1) // 2

    @property
    def backward_s(self) -> float:
        """Duration of the backward pass of a step alone on the replica [s]."""
        return self.step_s * (self.work_tokens - self.step_tokens) / self.work_tokens
