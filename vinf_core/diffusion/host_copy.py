"""Copies from the device to the host that the engine's thread does not wait for."""

from __future__ import annotations

from collections.abc import Iterable

import torch


def begin_copies(tensors: Iterable[torch.Tensor]) -> tuple[list[torch.Tensor], torch.cuda.Event | None]:
    """Begin to copy tensors from a GPU into pinned memory.

    Returns:
        The copies, and an event to wait for before they are read; None where nothing is copied: what is on the CPU
        already is returned as it is, and must never be changed in place.
    """
    copies, copied = [], None
    for tensor in tensors:
        if tensor.is_cuda:
            target = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            copies.append(target.copy_(tensor, non_blocking=True))
            # A blocking event lets the host sleep while it waits.
            copied = copied or torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        else:
            copies.append(tensor)
    if copied is not None:
        copied.record()
    return copies, copied
