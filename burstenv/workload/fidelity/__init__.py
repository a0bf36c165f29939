"""Fidelity: how near a generated trace is to a real one."""
