"""The official BurstGPT files: what they are, where they lie, and how they are downloaded."""
