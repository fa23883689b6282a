"""Embeddings of the prompts a rank met last, kept from one generation to the next."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch

from vinf_core.models.bounded_cache import BoundedCache

DEFAULT_CAPACITY = 64
"""Prompts a rank keeps: about 10 MB for a text encoder of 77 tokens of 1024 numbers in half precision."""

MAX_BYTES = 64 << 20
"""Of all of them: about 30 prompts for a text encoder of 256 tokens of 4096 numbers in half precision."""


class PromptCache:
    """The least recently used prompts leave first. One thread calls `embed`; any thread may read the counts."""

    def __init__(
        self,
        encode_text: Callable[[list[str]], torch.Tensor],
        *,
        capacity: int = DEFAULT_CAPACITY,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        """Make an empty cache.

        Args:
            encode_text: of a `VideoModel`: prompts to ``[len(prompts), tokens, dim]`` on the device.
            capacity: prompts kept at most, 1 or more.
            max_bytes: bytes kept at most; a longer embedding is not kept.
        """
        self._encode_text = encode_text
        self._kept: BoundedCache[str, torch.Tensor] = BoundedCache(
            capacity, max_bytes=max_bytes, size_of=lambda embedding: embedding.nbytes
        )

    @property
    def hit_count(self) -> int:
        """Prompts found since the start."""
        return self._kept.hit_count

    @property
    def miss_count(self) -> int:
        """Prompts encoded since the start."""
        return self._kept.miss_count

    def __len__(self) -> int:
        return len(self._kept)

    def embed(self, prompts: Iterable[str]) -> list[torch.Tensor]:
        """Return the embedding of each prompt, ``[tokens, dim]`` on the device; not to be changed in place.

        A missing prompt is encoded alone, never in a batch: the kernels that a batch's size chooses round differently,
        and what is kept must not depend on the company in which a prompt first came, nor on the rank.
        """
        return [self._kept.get(prompt, partial(self._encode, prompt)) for prompt in prompts]

    def _encode(self, prompt: str) -> torch.Tensor:
        return self._encode_text([prompt])[0]
