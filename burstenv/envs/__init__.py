"""Gymnasium: the scalar and the vector environment on one compiled core.

Nothing is imported here, so that registering the environments stays cheap; see ``env.py``,
``vector_env.py``, ``scenario.py`` and, for each number an agent sees, ``observations.py``.
"""
