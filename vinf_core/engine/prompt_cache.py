"""Embeddings of the prompts a rank met last, kept from one generation to the next."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable

import torch

DEFAULT_CAPACITY = 64
"""Prompts a rank keeps: about 10 MB for a text encoder of 77 tokens of 1024 numbers in half precision."""


class PromptCache:
    """The least recently used prompts leave first. One thread calls `embed`; any thread may read the counts."""

    def __init__(self, encode_text: Callable[[list[str]], torch.Tensor], *, capacity: int = DEFAULT_CAPACITY) -> None:
        """Make an empty cache.

        Args:
            encode_text: of a `VideoModel`: prompts to ``[len(prompts), tokens, dim]`` on the device.
            capacity: prompts kept at most, 1 or more.
        """
        assert capacity >= 1
        self._encode_text = encode_text
        self._capacity = capacity
        self._kept: OrderedDict[str, torch.Tensor] = OrderedDict()
        self.hit_count = 0
        """Prompts found since the start."""
        self.miss_count = 0
        """Prompts encoded since the start."""

    def __len__(self) -> int:
        return len(self._kept)

    def embed(self, prompts: Iterable[str]) -> list[torch.Tensor]:
        """Return the embedding of each prompt, ``[tokens, dim]`` on the device; not to be changed in place.

        A missing prompt is encoded alone, never in a batch: the kernels that a batch's size chooses round differently,
        and what is kept must not depend on the company in which a prompt first came, nor on the rank.
        """
        return [self._embed(prompt) for prompt in prompts]

    def _embed(self, prompt: str) -> torch.Tensor:
        found = self._kept.get(prompt)
        if found is not None:
            self._kept.move_to_end(prompt)
            self.hit_count += 1
            return found
        self.miss_count += 1
        made = self._encode_text([prompt])[0]
        self._kept[prompt] = made
        if len(self._kept) > self._capacity:
            self._kept.popitem(last=False)
        return made
