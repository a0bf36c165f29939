"""Replicas that fail, start and stop: what may happen, what is drawn for an episode, and its events, compiled."""
