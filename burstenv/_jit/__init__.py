"""Compilation, caching and linking of kernels, and their containers."""
