"""Real vLLM servers whose GPU is simulated, for tests and demonstrations: ``burstenv engines``."""
