"""``BurstGPT-Interval-v0``: continuous control once an interval."""
