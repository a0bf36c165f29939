"""Gymnasium: the scalar and the vector environment on one compiled core.

This module imports nothing, to keep registration cheap. See ``env.py``, ``vector_env.py``, ``scenario.py`` and, for
each number of an observation, ``observation/features.py``.
"""
