"""Validation against recordings: schedules of vLLM, and measured servers."""
