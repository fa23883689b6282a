"""Tiny random EasyAnimate V5.1 models, in exactly the layout of the published ones, and a V5 to be refused.

The configurations have the keys of alibaba-pai/EasyAnimateV5.1-12b-zh-InP-diffusers and its like; only sizes differ.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKLMagvit, EasyAnimateTransformer3DModel, FlowMatchEulerDiscreteScheduler
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer, Qwen2VLConfig, Qwen2VLForConditionalGeneration

from tests.support.tiny import randomise_zeroed

LATENT_CHANNELS = 16
TEXT_DIM = 16
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>")

CHAT_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}"
    "{% for content in message['content'] %}{% if 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""As Qwen2-VL's, for texts."""

PROMPTS = ("a red ball bounces over the sea", "一个红色的球在海面上跳跃，夕阳西下")

VAE_FACTS = {
    "cache_compression_vae": False,
    "cache_mag_vae": True,
    "force_upcast": True,
    "mid_block_attention_type": "spatial",
    "mid_block_use_attention": False,
    "mini_batch_decoder": 1,
    "mini_batch_encoder": 4,
    "norm_type": None,
    "sample_size": 256,
    "slice_compression_vae": False,
    "slice_mag_vae": False,
    "use_tiling": False,
    "use_tiling_decoder": False,
    "use_tiling_encoder": False,
}
"""Keys of the published VAE's configuration that diffusers' class does not know (it keeps them), and their values."""


def tiny_vae(*, layers_per_block: int = 1, latent_channels: int = LATENT_CHANNELS) -> AutoencoderKLMagvit:
    """A VAE that shrinks pictures by eight and time by four, with random weights."""
    torch.manual_seed(31)
    vae = AutoencoderKLMagvit(
        latent_channels=latent_channels,
        block_out_channels=(4, 8, 8, 8),
        layers_per_block=layers_per_block,
        norm_num_groups=4,
    )
    return vae.eval().requires_grad_(False)


def save_easyanimate(folder: Path, *, takes_images: bool = True, native: dict[str, int] | None = None) -> None:
    """A folder with a whole pipeline: the InP model, or the one that takes text alone.

    Args:
        folder: where.
        takes_images: which of the two.
        native: its ``width``, ``height`` and ``frame_count``, smaller than the published ones, which a server tries out
            when it starts.
    """
    if native is not None:
        name = "easyanimate-v5.1-7b" + ("-inp" if takes_images else "")
        (folder / "vinf.json").write_text(json.dumps({"model": name, **native}))
    torch.manual_seed(32)
    transformer = EasyAnimateTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=2 * LATENT_CHANNELS + 1 if takes_images else LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        patch_size=2,
        num_layers=3,
        mmdit_layers=2,
        time_embed_dim=16,
        add_norm_text_encoder=True,
        text_embed_dim=TEXT_DIM,
    )
    randomise_zeroed(transformer)
    transformer.save_pretrained(folder / "transformer", max_shard_size="100KB")
    tiny_vae().save_pretrained(folder / "vae")
    change(folder / "vae" / "config.json", **VAE_FACTS)
    # As the V5.1 repositories have it.
    FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True).save_pretrained(folder / "scheduler")
    vocabulary = _save_tokenizer(folder / "tokenizer")
    _text_encoder(len(vocabulary)).save_pretrained(folder / "text_encoder", max_shard_size="30KB")
    index = {
        "_class_name": "EasyAnimateInpaintPipeline" if takes_images else "EasyAnimatePipeline",
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "Qwen2VLForConditionalGeneration"],
        "tokenizer": ["transformers", "Qwen2Tokenizer"],
        "transformer": ["diffusers", "EasyAnimateTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLMagvit"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))


def change(path: Path, **values: object) -> None:
    """Change some values of a configuration."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values, indent=2))


def _text_encoder(vocabulary_size: int) -> Qwen2VLForConditionalGeneration:
    torch.manual_seed(33)
    text = {
        "vocab_size": vocabulary_size,
        "hidden_size": TEXT_DIM,
        "intermediate_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 512,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]},
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    vision = {"depth": 1, "embed_dim": 8, "hidden_size": TEXT_DIM, "num_heads": 2, "mlp_ratio": 2}
    return Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=vision))


def _save_tokenizer(folder: Path) -> dict[str, int]:
    """Byte pairs, learnt from a Chinese and an English sentence."""
    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([*PROMPTS, "You are a helpful assistant. system user assistant"] * 3, trainer)
    model = json.loads(made.to_str())["model"]
    merges = [tuple(pair) if not isinstance(pair, str) else tuple(pair.split(" ")) for pair in model["merges"]]
    tokenizer = Qwen2Tokenizer(vocab=model["vocab"], merges=merges, extra_special_tokens=list(SPECIALS[1:]))
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    # As published: the template in the configuration, and the vocabulary beside tokenizer.json.
    (folder / "chat_template.jinja").unlink()
    change(folder / "tokenizer_config.json", chat_template=CHAT_TEMPLATE)
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, merges)) + "\n")
    return dict(tokenizer.get_vocab())
