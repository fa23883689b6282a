"""The Dockerfile's steps, replayed without a container engine: `python -m scripts.replay --help`."""
