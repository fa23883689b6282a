"""The two text encoders of HunyuanVideo: a Llama for what every word says, CLIP for what the whole text says.

The stock pipeline encodes; here is when they are loaded, where they are, and how what they give becomes one tensor:
first the states of the Llama, a row a token, then the mask of tokens that are no padding, then the pooled state of
CLIP, the latter two each in as many rows as they need.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import HunyuanVideoPipeline
from torch import nn

from vinf_core.errors import ModelFilesError
from vinf_core.models.files import CONFIG
from vinf_core.models.loading import (
    LLAMA_CLASSES,
    check_text_encoder,
    load_llama,
    load_llama_tokenizer,
    load_text_encoder,
    load_tokenizer,
)
from vinf_core.models.weights import quantise

TOKENS = 256
"""Of a text, behind the instruction that the Llama gets with it; the pipelines' own number."""


@dataclass(frozen=True, slots=True)
class HunyuanText:
    """What the transformer takes of B texts."""

    states: torch.Tensor
    """``[B, TOKENS, dim]``."""
    mask: torch.Tensor
    """``[B, TOKENS]``: 1 for a token, 0 for padding."""
    pooled: torch.Tensor
    """``[B, pooled dim]``."""

    def pack(self) -> torch.Tensor:
        """As one tensor ``[B, rows, dim]``."""
        texts, _, dim = self.states.shape
        rows = [F.pad(row, (0, -row.shape[1] % dim)).view(texts, -1, dim) for row in (self.mask, self.pooled)]
        return torch.cat([self.states, *rows], dim=1)

    @classmethod
    def unpack(cls, packed: torch.Tensor, pooled_dim: int) -> HunyuanText:
        """Take it apart again.

        Args:
            packed: as `pack` gave it.
            pooled_dim: of the pooled state.
        """
        start = TOKENS + -(-TOKENS // packed.shape[2])
        return cls(
            states=packed[:, :TOKENS],
            mask=packed[:, TOKENS:start].flatten(1)[:, :TOKENS],
            pooled=packed[:, start:].flatten(1)[:, :pooled_dim],
        )


class HunyuanTextEncoder:
    """Both encoders of a folder, loaded when the first text comes: where none comes they take no memory."""

    def __init__(self, base: Path, *, device: torch.device, dtype: torch.dtype, fp8: bool, leaves: bool) -> None:
        """See that the files are whole; nothing is loaded yet.

        Args:
            base: with subfolders text_encoder, tokenizer, text_encoder_2 and tokenizer_2.
            device: where they compute.
            dtype: in what.
            fp8: whether the Llama's weights are kept in 8 bits.
            leaves: whether they leave the device after every text.

        Raises:
            ModelFilesError: a file is missing or damaged.
        """
        check_text_encoder(base / "text_encoder", LLAMA_CLASSES)
        check_text_encoder(base / "text_encoder_2")
        self._base = base
        self._tokenizers = load_llama_tokenizer(base / "tokenizer"), load_tokenizer(base / "tokenizer_2")
        self._device = device
        self._dtype = dtype
        self._fp8 = fp8
        self._leaves = leaves
        self._pipeline: Any = None

    def check_sizes(self, text_dim: int, pooled_dim: int) -> None:
        """See that the encoders go with a transformer that takes states of these sizes.

        Raises:
            ModelFilesError: they do not.
        """
        for folder, wanted in (("text_encoder", text_dim), ("text_encoder_2", pooled_dim)):
            path = self._base / folder / CONFIG
            size = json.loads(path.read_text()).get("hidden_size")
            if size != wanted:
                raise ModelFilesError(f"model: {path} says hidden_size: {size}; the denoiser takes {wanted}")

    @property
    def is_loaded(self) -> bool:
        """Whether a text has come."""
        return self._pipeline is not None

    @torch.inference_mode()
    def encode(self, prompts: list[str]) -> torch.Tensor:
        """Encode prompts one by one, so that none depends on its company: ``[n, rows, dim]`` (see `HunyuanText.pack`).

        Raises:
            ModelFilesError: a file does not fit its configuration.
        """
        if self._pipeline is None:
            self._pipeline = self._load()
        for encoder in self._encoders:
            encoder.to(self._device)
        encoded = []
        for prompt in prompts:
            states, pooled, mask = self._pipeline.encode_prompt(prompt, device=self._device, max_sequence_length=TOKENS)
            encoded.append(HunyuanText(states, mask.to(states.dtype), pooled.to(states.dtype)).pack())
        if self._leaves:
            for encoder in self._encoders:
                encoder.to("cpu")
        return torch.cat(encoded).to(self._dtype)

    @property
    def _encoders(self) -> tuple[nn.Module, nn.Module]:
        return self._pipeline.text_encoder, self._pipeline.text_encoder_2

    def _load(self) -> Any:
        llama = load_llama(self._base / "text_encoder", self._dtype).eval().requires_grad_(False)
        if self._fp8:
            quantise(llama, ("layers",), self._device)
        clip = load_text_encoder(self._base / "text_encoder_2").to(self._dtype).eval().requires_grad_(False)
        return HunyuanVideoPipeline(
            text_encoder=llama,
            tokenizer=self._tokenizers[0],
            text_encoder_2=clip,
            tokenizer_2=self._tokenizers[1],
            transformer=None,
            vae=None,
            scheduler=None,
        )
