"""Speed of the engine and the environments."""
