"""Imitation: learning from teachers and from the worth of choices."""
