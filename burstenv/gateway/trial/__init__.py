"""What a gateway itself costs: measured against engines that answer at once, ``burstenv bench gateway``."""
