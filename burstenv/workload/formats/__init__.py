"""Trace files: every format that is read, and every one that is written."""
