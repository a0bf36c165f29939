"""Trace files: all formats for reading and writing."""
