"""Whole episodes under candidates, compiled: on the threads of a machine or on a Ray cluster, by prompt length."""
