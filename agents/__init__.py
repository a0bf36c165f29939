"""Learned policies: training on the native batch, imitation, checkpoints (imported as ``burstenv.agents``).

Needs the extra ``burstenv[train]`` (PyTorch, Stable-Baselines3); nothing else in the package imports it.

Where to read first: ``config.py`` (what an agent is), ``train.py`` (how it is trained), ``agent.py`` (how it
is loaded and asked for actions).
"""
