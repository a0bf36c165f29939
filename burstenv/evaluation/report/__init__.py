"""Reports and leaderboards: tables, figures, words, and the pages that hold them."""
