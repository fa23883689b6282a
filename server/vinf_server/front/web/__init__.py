"""The page to watch: the second door of the front, for people with a browser."""
