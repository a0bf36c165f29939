"""``BurstGPT-Migration-v0``: which running request moves from which replica to which."""
