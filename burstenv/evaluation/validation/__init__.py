"""The model against recordings: schedules of the real scheduler, and measured servers."""
