"""An environment as a picture, and the window that shows it."""
