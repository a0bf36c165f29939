"""Adapters of the environments to algorithms; each for the scalar and the vector environment.

``FlatAction``, ``FlatActionVector``
    One ``Discrete`` number for a joint action, with masks: for DQN and other algorithms without ``MultiDiscrete``.
``FlatObservation``, ``FlatObservationVector``
    The dictionary observation as one vector, number for number that of ``observation="flat"``.
``FrameHistoryVector``
    The last observations side by side. For the scalar environment use
    ``gymnasium.wrappers.FrameStackObservation``, for Stable-Baselines3 ``VecFrameStack``.
``SemiMDPDiscount``, ``SemiMDPDiscountVector``
    Discounting by the elapsed time, not by the number of decisions.
"""

from burstenv.envs.wrappers.discount import SemiMDPDiscount, SemiMDPDiscountVector
from burstenv.envs.wrappers.flat_action import FlatAction, FlatActionVector, FlatCode
from burstenv.envs.wrappers.flat_observation import FlatObservation, FlatObservationVector
from burstenv.envs.wrappers.frame_history import FrameHistoryVector

__all__ = [
    "FlatAction",
    "FlatActionVector",
    "FlatCode",
    "FlatObservation",
    "FlatObservationVector",
    "FrameHistoryVector",
    "SemiMDPDiscount",
    "SemiMDPDiscountVector",
]
