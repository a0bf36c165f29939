"""Means with honest intervals, comparisons of many policies, and several training seeds."""
