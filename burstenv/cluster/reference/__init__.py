"""The reference cluster: replicas, gateway, clients and metrics as one event loop in plain Python.

It is the specification of how a cluster goes on, over the replicas of :mod:`burstenv.engine.reference`. Read
``cluster.py`` first. The compiled cluster must agree with it: same decisions, same outcomes, same times.
"""
