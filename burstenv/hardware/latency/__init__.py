"""Iteration times: the hinge, tables of a kernel profile, the roofline, and the fits of the first two."""
