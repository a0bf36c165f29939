"""Look-ahead: simulate every choice in a copy of the cluster, in a sampled or in the true future."""
