"""Frames on disk, by index, and their way to any number of readers."""
