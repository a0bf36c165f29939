"""The reference engine: one replica in plain Python, one iteration at a time. It is the specification."""
