"""The text encoder of EasyAnimate V5.1: the language half of a Qwen2-VL, which reads Chinese and English alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2Tokenizer, Qwen2VLForConditionalGeneration

from vinf_core.errors import ModelFilesError
from vinf_core.models.files import CONFIG, check_files
from vinf_core.models.loading import check_text_encoder, load_language_model
from vinf_core.models.weights import quantise

CLASSES = ("Qwen2VLForConditionalGeneration",)

TOKENS = 256
"""Of a text with the words around it that make a chat of it; the stock pipeline's number. What is longer is cut."""

_STATE = -2
"""Which of its layers' states the transformer was trained with: those before the last layer."""


class QwenTextEncoder:
    """The encoder of a folder, loaded when the first text comes: where none comes it takes no memory."""

    def __init__(self, base: Path, *, device: torch.device, dtype: torch.dtype, fp8: bool, leaves: bool) -> None:
        """See that the files are whole; nothing is loaded yet.

        Args:
            base: with subfolders text_encoder and tokenizer.
            device: where it computes.
            dtype: in what.
            fp8: whether its weights are kept in 8 bits.
            leaves: whether it leaves the device after every text.

        Raises:
            ModelFilesError: a file is missing or damaged.
        """
        self._folder = base / "text_encoder"
        check_text_encoder(self._folder, CLASSES)
        self._tokenizer = load_tokenizer(base / "tokenizer")
        self._device = device
        self._dtype = dtype
        self._fp8 = fp8
        self._leaves = leaves
        self._encoder: Any = None

    def check_size(self, text_dim: int) -> None:
        """See that the encoder goes with a transformer that takes states of this size.

        Raises:
            ModelFilesError: it does not.
        """
        path = self._folder / CONFIG
        config = json.loads(path.read_text())
        size = config.get("text_config", config).get("hidden_size")
        if size != text_dim:
            raise ModelFilesError(f"model: {path} says hidden_size: {size}; the denoiser takes {text_dim}")

    @property
    def is_loaded(self) -> bool:
        """Whether a text has come."""
        return self._encoder is not None

    @torch.inference_mode()
    def encode(self, prompts: list[str]) -> torch.Tensor:
        """Encode prompts one by one, so that none depends on its company: ``[n, TOKENS, dim]``.

        Raises:
            ModelFilesError: a file does not fit its configuration.
        """
        if self._encoder is None:
            self._encoder = self._load()
        self._encoder.to(self._device)
        states = torch.cat([self._encode(prompt) for prompt in prompts])
        if self._leaves:
            self._encoder.to("cpu")
        return states.to(self._dtype)

    def _encode(self, prompt: str) -> torch.Tensor:
        message = {"role": "user", "content": [{"type": "text", "text": prompt}]}
        chat = self._tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
        tokens = self._tokenizer(
            [chat],
            padding="max_length",
            padding_side="right",
            max_length=TOKENS,
            truncation=True,
            return_tensors="pt",
        ).to(self._device)
        # Without the head: a number for each of 152,000 words at every token is not wanted.
        encoded = self._encoder.model(
            input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, output_hidden_states=True, use_cache=False
        )
        states: torch.Tensor = encoded.hidden_states[_STATE]
        return states

    def _load(self) -> Any:
        encoder = load_language_model(Qwen2VLForConditionalGeneration, self._folder, CLASSES, self._dtype)
        encoder = encoder.eval().requires_grad_(False)
        if self._fp8:
            quantise(encoder, ("model.language_model.layers",), self._device)
        return encoder


def load_tokenizer(folder: Path) -> Any:
    """Load a Qwen2 tokenizer with its chat template.

    Raises:
        ModelFilesError: a file is missing or damaged, or there is no template.
    """
    check_files(folder, ("vocab.json", "merges.txt"), ("tokenizer.json",))
    try:
        tokenizer = Qwen2Tokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the reader of tokenizer.json raises nothing narrower
        raise ModelFilesError(f"model: {folder} holds no tokenizer that can be read: {error}") from error
    if not tokenizer.chat_template:
        raise ModelFilesError(f"model: {folder} holds no chat template, which prompts are put into")
    return tokenizer
