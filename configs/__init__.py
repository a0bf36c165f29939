"""YAML configuration shipped with burstenv: clusters, hardware, models, latency, workloads, scenarios, agents."""
