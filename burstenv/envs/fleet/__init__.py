"""``BurstGPT-Fleet-v0``: which replicas are to serve."""
