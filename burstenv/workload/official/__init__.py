"""The official BurstGPT files: published facts, data directory, and download."""
