"""Learned policies: training on the native batch, imitation, checkpoints (imported as ``burstenv.agents``).

Needs the extra ``burstenv[train]`` (PyTorch, Stable-Baselines3); nothing else in the package imports it.

Start with ``config.py`` (an agent's configuration), ``train.py`` (training) and ``agent.py`` (loading and actions).
"""
