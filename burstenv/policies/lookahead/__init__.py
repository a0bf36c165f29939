"""Look-ahead: every choice is tried in a copy of the cluster, in an imagined or in the true future."""
