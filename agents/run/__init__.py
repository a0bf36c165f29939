"""A training run as it goes: its folder, what is validated and kept of it, its progress, and its way back."""
