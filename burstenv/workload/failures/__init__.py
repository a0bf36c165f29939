"""Failed requests of a trace: their rates, and their use as demand."""
