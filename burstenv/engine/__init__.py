"""One replica: the reference engine in plain Python, and the compiled engine that equals it."""
