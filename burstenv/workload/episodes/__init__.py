"""Episodes: drawn days, cut and scaled to a load."""
