"""What an allocator has taken from the system, and how much of it lies unused between what is used."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Heap:
    """An allocator at one moment, in bytes."""

    used: int
    """Handed out."""
    idle: int
    """Reserved, and not handed out: holes between what is used."""

    @property
    def idle_share(self) -> float:
        """Of all that is reserved."""
        return self.idle / max(1, self.idle + self.used)


class _MallInfo2(ctypes.Structure):
    """glibc's ``struct mallinfo2`` (malloc.h)."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def look_at_heap(device: torch.device) -> Heap | None:
    """Look at torch's allocator on a GPU, at glibc's on a CPU; None: this system's does not tell.

    glibc takes large blocks from the system one by one and gives them back when they are freed: they are never idle.
    """
    if device.type == "cuda":
        reserved, allocated = torch.cuda.memory_reserved(device), torch.cuda.memory_allocated(device)
        return Heap(used=allocated, idle=reserved - allocated)
    mallinfo2 = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if mallinfo2 is None:
        return None
    mallinfo2.restype = _MallInfo2
    info = mallinfo2()
    return Heap(used=info.uordblks + info.hblkhd, idle=info.fordblks)


class HeapWatch:
    """Looks at an allocator now and then and keeps the moment at which most was idle."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.worst: Heap | None = None
        """None: nobody has looked, or the system does not tell."""

    def look(self) -> None:
        """Look once more."""
        heap = look_at_heap(self._device)
        if heap is not None and (self.worst is None or heap.idle > self.worst.idle):
            self.worst = heap
