"""One replica: the reference engine in plain Python, and the compiled engine that equals it.

Read ``reference/engine.py`` first (how a replica schedules), then ``records.py`` (the state of the compiled engine),
``replica.py``, ``scheduler.py`` and ``decode_run.py`` (the fast path), and ``full_engine.py`` (every rule, one
iteration at a time).
"""
