"""What the decoder does to a sink's frames, at its worst."""

from __future__ import annotations

import numpy as np

from vinf_core.events import FrameSink, Pixels


class Lender:
    """Sends frames in one and the same array, spoiled as soon as `FrameSink.send` returns."""

    def __init__(self, sink: FrameSink, like: Pixels) -> None:
        self._sink = sink
        self._lent = np.empty_like(like)

    def send(self, frame_index: int, pixels: Pixels) -> None:
        """Lend a sink one frame, ``[H, W, 3]``, of the size of ``like``."""
        self._lent[:] = pixels
        self._sink.send(frame_index, self._lent)
        self._lent[:] = ~pixels
