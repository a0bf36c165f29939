"""GPUs and models: what the serving model knows of them, and how long an iteration takes."""
