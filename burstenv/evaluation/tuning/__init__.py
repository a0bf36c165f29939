"""Tuning of heuristics on validation episodes."""
