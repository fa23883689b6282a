"""The five parts of the `sprites` pipeline, from stock diffusers and transformers classes only."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, DDIMScheduler, TextToVideoSDPipeline, UNet3DConditionModel
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from training.sprites import world

MAX_WORDS = 16
"""Length of a padded caption in tokens, start and end included."""
TEXT_WIDTH = 96


def make_vae() -> AutoencoderKL:
    """Build the autoencoder: factor 8, four latent channels."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 96),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=world.FRAME_SIZE,
        scaling_factor=1.0,
        force_upcast=False,
    )


def make_unet() -> UNet3DConditionModel:
    """Build the denoiser: 8 x 8 and 4 x 4 cells, space and time.

    `attention_head_dim` is the number of heads in the blocks and, in `transformer_in` alone, the channels
    of each of its eight heads: so diffusers names it.
    """
    unet = UNet3DConditionModel(
        sample_size=world.FRAME_SIZE // 8,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock3D", "CrossAttnDownBlock3D"),
        up_block_types=("CrossAttnUpBlock3D", "CrossAttnUpBlock3D"),
        block_out_channels=(64, 80),
        layers_per_block=1,
        norm_num_groups=16,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=8,
    )
    # Like the temporal convolutions of diffusers, begin the temporal attention as the identity: what the
    # spatial layers learned on single frames must not be upset when clips come.
    for module in unet.modules():
        if isinstance(module, TransformerTemporalModel):
            nn.init.zeros_(module.proj_out.weight)
            nn.init.zeros_(module.proj_out.bias)
    return unet


def make_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Build the text encoder: two layers over the world's own words."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=2 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_WORDS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def make_tokenizer() -> CLIPTokenizer:
    """Build a CLIP tokenizer in which every word of the world is one token.

    The merges of a word go in front to back. A merge of an earlier word may fire inside a later one first;
    then whatever it leaves is merged by rules of lower rank, which cannot disturb the earlier words.
    """
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = [*letters, *(letter + "</w>" for letter in letters)]
    ranks: dict[tuple[str, str], int] = {}
    for word in world.vocabulary():
        parts = _split(word, ranks)
        while len(parts) > 1:
            ranks[(parts[0], parts[1])] = len(ranks)
            tokens.append(parts[0] + parts[1])
            parts = [parts[0] + parts[1], *parts[2:]]
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    vocab = {token: number for number, token in enumerate(tokens)}
    tokenizer: Any = CLIPTokenizer(vocab=vocab, merges=list(ranks), model_max_length=MAX_WORDS)
    for word in world.vocabulary():
        if tokenizer.tokenize(word) != [word + "</w>"]:
            raise AssertionError(f"{word!r} is not one token: {tokenizer.tokenize(word)}")
    checked: CLIPTokenizer = tokenizer
    return checked


def _split(word: str, ranks: dict[tuple[str, str], int]) -> list[str]:
    """Apply the merges so far to a word, lowest rank first, as the tokenizer will."""
    parts = [*word[:-1], word[-1] + "</w>"]
    while True:
        pairs = [(ranks[pair], n) for n, pair in enumerate(pairwise(parts)) if pair in ranks]
        if not pairs:
            return parts
        _, n = min(pairs)
        parts[n : n + 2] = [parts[n] + parts[n + 1]]


def make_scheduler() -> DDIMScheduler:
    """Build the saved scheduler: v-prediction with a last step of pure noise.

    `DPMSolverMultistepScheduler.from_config` takes the same settings over.
    """
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=True,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )


def make_pipeline() -> TextToVideoSDPipeline:
    """Build the pipeline with untrained weights."""
    tokenizer = make_tokenizer()
    return TextToVideoSDPipeline(
        vae=make_vae(),
        text_encoder=make_text_encoder(tokenizer),
        tokenizer=tokenizer,
        unet=make_unet(),
        scheduler=make_scheduler(),
    )


def load_pipeline(folder: Path) -> TextToVideoSDPipeline:
    """Load an exported folder, everything in float32."""
    return TextToVideoSDPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True)


def save_pipeline(pipeline: TextToVideoSDPipeline, folder: Path, settings: dict[str, Any]) -> None:
    """Export in the standard layout: UNet and VAE in fp16, text encoder in float32.

    The vocabulary and the settings of use (`vinf.json`) go beside it; stock loaders pass over them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pipeline.scheduler.save_pretrained(folder / "scheduler")
    pipeline.tokenizer.save_pretrained(folder / "tokenizer")
    pipeline.text_encoder.save_pretrained(folder / "text_encoder")
    for name in ("unet", "vae"):
        part = getattr(pipeline, name)
        copy = type(part).from_config(part.config)
        copy.load_state_dict(part.state_dict())
        copy.to(torch.float16).save_pretrained(folder / name)
    index = {
        "_class_name": "TextToVideoSDPipeline",
        "_diffusers_version": diffusers.__version__,
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet3DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    for name, content in (
        ("model_index.json", index),
        ("vocabulary.json", world.vocabulary()),
        ("vinf.json", settings),
    ):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(0o644)
