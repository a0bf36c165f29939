"""Upper bounds, and the headroom of a scenario."""
