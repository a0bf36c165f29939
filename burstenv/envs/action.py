"""The action space: the agent's components, their form, and the legal actions.

Components are admission (0 reject, 1 admit, 2 defer), routing (a replica), batching (a mode of the chosen replica) and,
where replicas fine-tune in the slack, background (a deferral bound and a token budget of the chosen replica, or a rule,
see :mod:`burstenv.envs.background_levels`). With one component left the space is ``Discrete``; with admission and
routing in the flat form it is ``Discrete(1 + R)``: reject, or a replica.

An illegal action never raises. A replica that can never serve the request rejects it; one that cannot hold the whole
answer cuts it (both count as failed). A deferral beyond the limit is a rejection, and so is a replica that is known to
take no requests. An index outside the space is clipped. A value that is no action, such as NaN, is an error, see
:mod:`burstenv.envs.given_actions`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from burstenv._jit.decorators import kernel
from burstenv.cluster.gateway import ADMIT, DEFER, REJECT, may_defer
from burstenv.engine.enums import NO_REQUEST
from burstenv.envs.background_levels import set_level
from burstenv.errors import BurstenvError, unknown_name
from burstenv.policies.background import LEVELS
from burstenv.policies.decide import choose_admission, choose_replica
from burstenv.policies.estimates import is_legal, tokens_to_hold

COMPONENTS = ("admission", "routing", "batching", "background")
DEFAULT_COMPONENTS = ("admission", "routing", "batching")


def decided(environment: dict[str, Any]) -> tuple[str, ...]:
    """Return what an agent decides, by the arguments of its environment."""
    given = environment.get("decide", DEFAULT_COMPONENTS)
    return (given,) if isinstance(given, str) else tuple(given)


def check_advised(advised: bool, flat: bool) -> None:
    """Raise a one-sentence error if an agent is to see the rules' decision but not to take all of it."""
    if advised and not flat:
        raise BurstenvError(
            "advised shows the decision of the rules for admission and routing to an agent that takes both: it needs "
            "decide=('admission', 'routing') and action='flat'"
        )


class JointActions(gym.spaces.MultiDiscrete):
    """A ``MultiDiscrete`` space that also samples by ``info["action_mask"]``, the components' masks side by side."""

    def sample(self, mask: Any = None, probability: Any = None) -> np.ndarray:
        """Return a random action.

        Args:
            mask: (sum of nvec,) int8, or a tuple with a mask of each component, as in Gymnasium; None: any action.
            probability: A tuple with the probabilities of each component.

        Raises:
            BurstenvError: If a mask in one array has another length.
        """
        if isinstance(mask, np.ndarray) and self.nvec.ndim == 1:
            if mask.shape != (self.nvec.sum(),):
                raise BurstenvError(
                    f"a mask of {self} must be of shape ({self.nvec.sum()},), its components side by side, "
                    f"got {mask.shape}"
                )
            mask = tuple(np.split(mask, np.cumsum(self.nvec)[:-1]))
        return super().sample(mask, probability)


def chosen_components(decide: str | Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """Return the components that an agent decides, in the order of the known ones.

    Raises:
        BurstenvError: If there is none, or one is unknown.
    """
    named = (decide,) if isinstance(decide, str) else decide
    for name in named:
        if name not in known:
            raise unknown_name("component in decide", str(name), known)
    chosen = tuple(name for name in known if name in named)
    if not chosen:
        raise BurstenvError(f"decide is empty; the agent must decide at least one of {', '.join(known)}")
    return chosen


@dataclass(frozen=True)
class ActionLayout:
    """The agent's components, and the form of its action."""

    decide: tuple[str, ...]
    flat: bool
    num_replicas: int
    num_modes: int

    @classmethod
    def build(cls, decide: Sequence[str], form: str, num_replicas: int, num_modes: int) -> ActionLayout:
        """Check and build a layout.

        Args:
            decide: The agent's components, any of ``admission``, ``routing``, ``batching``, ``background``.
            form: ``"multi"``, or ``"flat"`` for admission and routing in one ``Discrete(1 + R)``.
            num_replicas: R.
            num_modes: M.
        """
        chosen = chosen_components(decide, COMPONENTS)
        if form not in ("multi", "flat"):
            raise unknown_name("action form", form, ("multi", "flat"))
        if form == "flat" and chosen != ("admission", "routing"):
            raise BurstenvError(
                f"the flat action form needs decide=('admission', 'routing'), got {chosen}; use action='multi'"
            )
        return cls(chosen, form == "flat", num_replicas, num_modes)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of choices of each component of the action."""
        if self.flat:
            return (1 + self.num_replicas,)
        all_sizes = {
            "admission": 3, "routing": self.num_replicas, "batching": self.num_modes, "background": LEVELS,
        }  # fmt: skip
        return tuple(all_sizes[name] for name in self.decide)

    def space(self) -> gym.spaces.Discrete | gym.spaces.MultiDiscrete:
        """Return the action space of one environment."""
        if len(self.sizes) == 1:
            return gym.spaces.Discrete(self.sizes[0])
        return JointActions(list(self.sizes))

    def flags(self) -> dict[str, float]:
        """Return the layout for compiled code, fields of SETTINGS."""
        return {**{f"decides_{name}": name in self.decide for name in COMPONENTS}, "flat": self.flat}


@kernel
def decide_with(world, exchange):
    """Return (admission, replica, mode): the agent's components, and those of the rules for the others.

    A rule sees the earlier decisions: an admission rule sees the replica that the agent chose. An agent's choice for
    the fine-tuning job of that replica is carried out at once.
    """
    settings, action = exchange.settings, exchange.action
    count, num_modes = world.modes.shape
    admission, replica, mode = ADMIT, 0, settings.mode
    k = 0
    if settings.flat:
        choice = min(max(action[0], 0), count)
        if choice > 0:
            return ADMIT, choice - 1, mode
        return REJECT, np.int64(world.memory.advised_replica if settings.advised else 0), mode
    if settings.decides_admission:
        admission = min(max(action[k], 0), 2)
        k += 1
    if settings.decides_routing:
        replica = min(max(action[k], 0), count - 1)
        k += 1
    else:
        replica = choose_replica(settings, world)
    if not settings.decides_admission:
        admission = choose_admission(settings, world, replica)
    if settings.decides_batching:
        mode = min(max(action[k], 0), num_modes - 1)
        k += 1
    if settings.decides_background:
        set_level(world, replica, action[k])
    return admission, replica, mode


@kernel
def write_mask(world, exchange):
    """Write the legal choices into the mask, (A,) int8, components side by side.

    At a tick every choice is legal (only the mode matters). A replica is legal if it holds the prompt and the whole
    predicted answer or, without such a replica, if it accepts the prompt; one that is known to be off, booting,
    draining or down takes no request. If none accepts it, every replica is marked as legal, but admission is not.
    A prefilled request may decode on replicas of another role than prefill, or stay; it is admitted already.
    """
    settings, mask = exchange.settings, exchange.mask
    count, num_modes = world.modes.shape
    request_id = world.environment.at_gateway
    at = 0
    if request_id == NO_REQUEST:
        for k in range(len(mask)):
            mask[k] = 1
        return
    request, placing = world.requests[request_id], world.gateway.hands_over and world.environment.placing
    tokens = tokens_to_hold(world, request)
    fitting = 0
    for r in range(count):
        if is_legal(world, r, tokens):
            fitting += 1
    if settings.decides_admission:
        mask[REJECT] = 0 if placing else 1
        if settings.flat:
            at = 1
        else:
            mask[ADMIT] = 1 if fitting > 0 else 0
            mask[DEFER] = 1 if may_defer(world, request) and not placing else 0
            at = 3
    if settings.decides_routing:
        for r in range(count):
            legal = is_legal(world, r, tokens) or (fitting == 0 and not settings.flat)
            mask[at + r] = 1 if legal else 0
        at += count
    if settings.decides_batching:
        for m in range(num_modes):
            mask[at + m] = 1
        at += num_modes
    if settings.decides_background:
        for k in range(LEVELS):
            mask[at + k] = 1
