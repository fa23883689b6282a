"""Latents to pixels, in slices, in the order in which frames are due."""
