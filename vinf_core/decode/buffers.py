"""Host buffers in turn: decoded slices on their way from the device to a sink.

A copy from a GPU runs beside the GPU's work only into pinned memory and on a stream of its own. Pinning is slow, so a
video goes through a few buffers however long it is. On a CPU nothing is pinned and the copy is made at once, but the
buffers are the same: a sink that keeps what it was lent shows that on every device.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from vinf_core.decode.slices import SLICE_FRAMES
from vinf_core.errors import OutputInvalidError
from vinf_core.events import Pixels


@dataclass(slots=True)
class _Buffer:
    pixels: torch.Tensor
    """``[frames, H, W, 3]`` uint8 in host memory."""
    copied: torch.cuda.Event | None
    """Recorded behind the newest copy from a GPU."""
    finite: torch.Tensor
    """One bool: whether the pictures were made of finite values."""
    frame_count: int = 0


class HostBuffers:
    """Brings the slices of one video to the host, first in, first out; used by one thread."""

    def __init__(self, device: torch.device, ahead: int | None = None, *, frames: int = SLICE_FRAMES) -> None:
        """Make buffers, which take memory when the first slice arrives.

        Args:
            device: where the slices are decoded.
            ahead: see the attribute; None: what the device is good for.
            frames: of the longest slice.
        """
        self._frames = frames
        on_gpu = device.type == "cuda"
        self.ahead = int(on_gpu) if ahead is None else ahead
        """How many slices shall be under way while one more is decoded: 1 on a GPU, which decodes by itself; 0 on a
        CPU, where a slice would only be late."""
        self._copies = torch.cuda.Stream(device) if on_gpu else None  # type: ignore[no-untyped-call]
        self._free: deque[_Buffer] = deque()
        self._under_way: deque[_Buffer] = deque()
        self._made = False

    def __len__(self) -> int:
        """Slices fetched and not yet lent."""
        return len(self._under_way)

    def fetch(self, pictures: torch.Tensor, finite: torch.Tensor) -> None:
        """Begin to copy a slice to the host; on a GPU it may still be decoded, on the current stream.

        Args:
            pictures: ``[n, H, W, 3]`` uint8 on the device, n up to ``frames``; all slices have one H and W.
            finite: one bool on the device: whether the pictures can be shown.

        Raises:
            BufferError: ``ahead`` + 1 slices have been fetched and not been given back.
        """
        if not self._made:
            self._make(pictures)
        if not self._free:
            raise BufferError(f"all {self.ahead + 1} host buffers are in use")
        buffer = self._free.popleft()
        buffer.frame_count = pictures.shape[0]
        target = buffer.pixels[: buffer.frame_count]
        if self._copies is None or buffer.copied is None:
            target.copy_(pictures)
            buffer.finite.copy_(finite)
        else:
            # Only a copy between equal layouts needs no help of the host.
            pictures = pictures.contiguous()
            self._copies.wait_stream(torch.cuda.current_stream(pictures.device))
            with torch.cuda.stream(self._copies):
                target.copy_(pictures, non_blocking=True)
                buffer.finite.copy_(finite, non_blocking=True)
                buffer.copied.record()
            # The allocator must not give this memory to the next slice before it has been copied.
            pictures.record_stream(self._copies)
            finite.record_stream(self._copies)
        self._under_way.append(buffer)

    @contextmanager
    def oldest(self) -> Iterator[Pixels]:
        """Wait until the oldest slice fetched is on the host and lend it: ``[n, H, W, 3]``, until the block ends.

        Raises:
            OutputInvalidError: instead, where the slice was made of values that are not finite.
        """
        buffer = self._under_way.popleft()
        try:
            if buffer.copied is not None:
                buffer.copied.synchronize()
            if not buffer.finite:
                raise OutputInvalidError("the decoder produced values that are not finite")
            yield buffer.pixels[: buffer.frame_count].numpy()
        finally:
            self._free.append(buffer)

    def _make(self, pictures: torch.Tensor) -> None:
        # All at once, behind the first slice: pinning may wait for the GPU, and later that would hold up a copy.
        shape = (self._frames, *pictures.shape[1:])
        for _ in range(self.ahead + 1):
            pixels = torch.empty(shape, dtype=torch.uint8, pin_memory=self._copies is not None)
            finite = torch.empty((), dtype=torch.bool, pin_memory=self._copies is not None)
            # A blocking event lets the host sleep while it waits.
            copied = torch.cuda.Event(blocking=True) if self._copies is not None else None  # type: ignore[no-untyped-call]
            self._free.append(_Buffer(pixels, copied, finite))
        self._made = True
