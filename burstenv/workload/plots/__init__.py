"""Figures of traces: of one trace, and of a comparison."""
