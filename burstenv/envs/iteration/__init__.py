"""``BurstGPT-Iteration-v0``: the scheduler inside one engine."""
