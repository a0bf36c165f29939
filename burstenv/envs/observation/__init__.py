"""The observation: one table of features, and the compiled code that writes them."""
