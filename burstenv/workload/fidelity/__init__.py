"""Fidelity: the distance of a generated trace from a real one."""
