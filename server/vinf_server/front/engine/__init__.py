"""The group of ranks as the front sees it: launched, watched, given orders."""
