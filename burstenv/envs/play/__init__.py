"""Whole episodes under one policy: compiled, in Python, or by a policy network."""
