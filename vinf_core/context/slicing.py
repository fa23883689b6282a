"""Computing a clip in slices: less memory, and on CPUs more speed, since the intermediate values stay in the cache.

Exact: a slice is a set of frames for modules that treat every frame alone, and a set of positions for temporal ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(slots=True)
class Slices:
    """How much is computed at once; may change between calls of the UNet."""

    frame_bytes: int = 2 * 2**20
    """Input of a module that treats every frame alone. Unit: bytes"""
    row_bytes: int = 2**20
    """Hidden states of positions in a temporal transformer. Unit: bytes"""
    begun_count: int = 0
    """Slices begun so far; other threads may read it."""

    @classmethod
    def suited_to(cls, device: torch.device) -> Slices:
        """Slices that stay in a CPU's cache (measured), or that keep a GPU busy (not measured yet)."""
        return cls() if device.type == "cpu" else cls(frame_bytes=512 * 2**20, row_bytes=256 * 2**20)

    def frames(self, hidden: torch.Tensor) -> int:
        """How many rows of ``[B * f, ...]`` make a slice."""
        return _count(hidden, self.frame_bytes)

    def positions(self, hidden: torch.Tensor) -> Iterator[slice]:
        """Cut the positions of ``[B, C, n, positions]`` into slices."""
        step = -(-hidden.shape[-1] // max(1, -(-hidden.numel() * hidden.element_size() // self.frame_bytes)))
        for start in range(0, hidden.shape[-1], step):
            self.begun_count += 1
            yield slice(start, start + step)

    def rows(self, hidden: torch.Tensor) -> int:
        """How many rows of ``[N, f, C]`` make a slice."""
        return _count(hidden, self.row_bytes)


def _count(hidden: torch.Tensor, budget: int) -> int:
    """Rows of nearly equal slices that keep to a budget where one row does."""
    rows = hidden.shape[0]
    if not rows:
        return 1
    slices = -(-hidden.numel() * hidden.element_size() // budget)
    return max(1, -(-rows // max(1, slices)))


class FrameSlices(nn.Module):
    """Wraps a module that treats every batch entry alone, such as a spatial resnet or transformer."""

    def __init__(self, module: nn.Module, slices: Slices) -> None:
        super().__init__()
        self.module = module
        self._slices = slices

    def forward(
        self,
        hidden_states: torch.Tensor | None = None,
        *args: Any,
        input_tensor: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run the module on slices of ``[B * f, ...]`` and put its outputs together.

        Tensor arguments have a row for every row of the input, or one for each of B equal parts of it.

        Args:
            hidden_states: the input.
            input_tensor: the input, where it is given by the name it has in ``ResnetBlock2D``.
            args, kwargs: the rest of what the module takes.
        """
        if hidden_states is None:
            hidden_states = input_tensor
        assert hidden_states is not None, "no input"
        batch = hidden_states.shape[0]
        step = self._slices.frames(hidden_states)
        if step >= batch:
            return self.module(hidden_states, *args, **kwargs)
        parts = [a.shape[0] for a in (*args, *kwargs.values()) if isinstance(a, torch.Tensor) and a.shape[0] != batch]
        part = batch // max(parts, default=1)  # a slice lies within one part
        out: torch.Tensor | None = None
        is_tuple = False
        for first in range(0, batch, part):
            for start in range(first, first + part, step):
                stop = min(start + step, first + part)
                self._slices.begun_count += 1
                got = self.module(
                    hidden_states[start:stop],
                    *(_rows(a, start, stop, batch) for a in args),
                    **{name: _rows(a, start, stop, batch) for name, a in kwargs.items()},
                )
                is_tuple = isinstance(got, tuple)
                got = got[0] if is_tuple else got
                if out is None:
                    out = got.new_empty((batch, *got.shape[1:]))
                out[start:stop] = got
        return (out,) if is_tuple else out


def _rows(argument: Any, start: int, stop: int, batch: int) -> Any:
    if not isinstance(argument, torch.Tensor):
        return argument
    if argument.shape[0] == batch:
        return argument[start:stop]
    part = start * argument.shape[0] // batch
    return argument[part : part + 1]
