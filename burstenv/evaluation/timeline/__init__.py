"""The timeline of an episode: its series, and the page that draws them."""
