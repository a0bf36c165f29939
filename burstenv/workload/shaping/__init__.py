"""Shaping a trace: selection, mixing, rates and scaling."""
