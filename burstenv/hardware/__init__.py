"""GPUs and models, and the times of iterations."""
