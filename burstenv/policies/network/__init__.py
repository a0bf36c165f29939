"""Policy networks: their weights as plain arrays, compiled inference, and the shipped agents."""
