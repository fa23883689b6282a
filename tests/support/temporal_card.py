"""The card of a model whose VAE knows time, as a package of somebody else's would bring it; see `temporal_adapter`."""

from __future__ import annotations

import os

from vinf_core.models.catalogue import ModelCard

ENVIRONMENT = "VINF_TEST_TEMPORAL"
"""Variable with the folder of its files; orders to die lie there, too."""

CARD = ModelCard(
    name="tides",
    title="A model of four frames a latent frame, with random weights",
    adapter="tests.support.temporal_adapter",
    licence="CC0-1.0",
    parameter_count=60_000,
    width=64,
    height=64,
    frame_count=13,
    frame_rate=8,
    folder=os.environ.get(ENVIRONMENT, ""),
)
