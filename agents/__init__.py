"""Learned policies: training, networks, callbacks (imported as ``burstenv.agents``)."""
