"""Adapters, one file a model: what its temporal sites are, how it encodes, denoises and decodes."""
