"""Iteration times: the hinge, tables of a kernel profile, the roofline, and how the first two are fitted."""
