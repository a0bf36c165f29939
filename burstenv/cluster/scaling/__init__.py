"""A cluster whose number of replicas changes by decisions: what may be decided, by which rules, and what follows."""
