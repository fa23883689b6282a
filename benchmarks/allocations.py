"""Counts what a computation would take of a GPU's memory, without the GPU: every tensor's bytes, while it lives.

The computation runs on the meta device, where tensors have shapes and no numbers, through the code that a GPU would
run. What cannot be seen there is said where it is assumed.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

BLOCK_BYTES = 512
"""What torch's allocator on GPUs rounds a tensor up to (c10/core/AllocatorConfig.h, `kMinBlockSize`)."""

_CONVOLUTION = torch.ops.aten.convolution.default


@dataclass(frozen=True, slots=True)
class HandedOut:
    """What torch's own allocator did during some work."""

    allocations: int
    """Calls that asked it for memory."""
    peak_bytes: int
    """Most that it had handed out over what was there before."""


def handed_out(work: Callable[[], object], device: torch.device) -> HandedOut:
    """Run ``work`` and see what torch's allocator hands out: told by the profiler on a CPU, by its counters on a GPU.

    On a GPU only the device's memory is in it, on a CPU only that of tensors.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_stats(device)
        work()
        torch.cuda.synchronize(device)
        after = torch.cuda.memory_stats(device)
        count = after["allocation.all.allocated"] - before["allocation.all.allocated"]
        return HandedOut(count, after["allocated_bytes.all.peak"] - before["allocated_bytes.all.current"])
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        work()
    assert profile.kineto_results is not None
    events = [event for event in profile.kineto_results.events() if event.name() == "[memory]"]
    held = peak = count = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        count += event.nbytes() > 0
        peak = max(peak, held)
    return HandedOut(count, peak)


def count_peak(work: Callable[[], object], held: Iterable[torch.Tensor] = (), *, workspaces: bool = True) -> int:
    """Run ``work``; return the most bytes that its tensors take together with those of ``held``.

    Args:
        work: computes, on any device.
        held: there before and after, such as weights.
        workspaces: whether a convolution takes a copy of its input and of its output besides: cuDNN computes in the
            order of its own, channels last, where tensor cores are used.

    Attention is taken for one fused kernel, which keeps no scores.
    """
    counter = _Counter(workspaces)
    for tensor in held:
        counter.see(tensor)
    with _FusedAttention(), counter:
        work()
    return counter.peak


class _FusedAttention(TorchFunctionMode):
    """The meta device has only the slow attention, whose scores would be counted."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            return torch.empty_like(args[0])
        return func(*args, **(kwargs or {}))


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every tensor that an operation returns, down to the operations that others are made of."""

    def __init__(self, workspaces: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._held = 0
        self._workspaces = workspaces
        self._seen = WeakIdKeyDictionary()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        with self:
            made = func.decompose(*args, **(kwargs or {}))
        if made is not NotImplemented:
            return made
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self.see(tensor)
        if self._workspaces and func is _CONVOLUTION:
            self.peak = max(self.peak, self._held + _size(args[0]) + _size(made))
        return made

    def see(self, tensor: torch.Tensor) -> None:
        """Count a tensor's memory until nobody holds it any more."""
        storage = tensor.untyped_storage()
        if storage in self._seen:
            return
        size = -(-storage.nbytes() // BLOCK_BYTES) * BLOCK_BYTES
        self._seen[storage] = size
        self._held += size
        self.peak = max(self.peak, self._held)
        weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self._held -= size


def _size(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
