"""Stable-Baselines3: its algorithms on the native batch."""
