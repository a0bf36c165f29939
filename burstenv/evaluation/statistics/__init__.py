"""Means with intervals, comparisons of many policies, and several training seeds."""
