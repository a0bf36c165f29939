"""A policy in front of real OpenAI-compatible engines: ``burstenv serve``. Needs the extra ``gateway``."""
