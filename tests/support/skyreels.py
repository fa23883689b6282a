"""Tiny random SkyReels-V1 models, in exactly the layout of the published ones.

The transformer alone is in the folder of SkyReels-V1, in several files (Skywork/SkyReels-V1-Hunyuan-T2V and -I2V); all
the rest is in that of HunyuanVideo (hunyuanvideo-community/HunyuanVideo).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLHunyuanVideo, FlowMatchEulerDiscreteScheduler, HunyuanVideoTransformer3DModel
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import CLIPTextConfig, CLIPTextModel, LlamaConfig, LlamaModel, PreTrainedTokenizerFast

from tests.support.engine import Recorder
from tests.support.mesh import meshed
from tests.support.store import Store
from tests.support.tiny import randomise_zeroed
from vinf_core.context.partition import clips_of
from vinf_core.distributed.axes import Axes
from vinf_core.distributed.control import ControlPlane
from vinf_core.distributed.groups import Groups
from vinf_core.distributed.topology import Topology
from vinf_core.engine.generator import Generator
from vinf_core.events import Pixels, StageClock, Verdict
from vinf_core.models.locate import ModelSource
from vinf_core.models.registry import load_model
from vinf_core.models.skyreels import SkyReelsModel
from vinf_core.types import GenerationSpec

Records = dict[int, dict[int, bytes]]
"""Checkpoints by completed steps and latent frame."""
LATENT_CHANNELS = 16
TEXT_DIM = 24
POOLED_DIM = 8
LLAMA_SPECIALS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<pad>",
)
CLIP_SPECIALS = ("<|startoftext|>", "<|endoftext|>")


def save_skyreels(folder: Path, *, takes_image: bool = False, native: dict[str, int] | None = None) -> None:
    """A folder with the transformer of the text-to-video or the image-to-video model.

    Args:
        folder: where to.
        takes_image: which of them.
        native: width, height and frame_count that it shall have been trained in, in a ``vinf.json``: a server measures
            at its start what the native size takes, which takes minutes on a CPU for the published one.
    """
    torch.manual_seed(21)
    transformer = HunyuanVideoTransformer3DModel(
        in_channels=(2 if takes_image else 1) * LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_attention_heads=4,
        attention_head_dim=12,
        num_layers=2,
        num_single_layers=2,
        num_refiner_layers=1,
        mlp_ratio=2.0,
        text_embed_dim=TEXT_DIM,
        pooled_projection_dim=POOLED_DIM,
        rope_axes_dim=(4, 4, 4),
    )
    randomise_zeroed(transformer)
    transformer.save_pretrained(folder, max_shard_size="200KB")
    if native is not None:
        name = "skyreels-v1-i2v" if takes_image else "skyreels-v1-t2v"
        (folder / "vinf.json").write_text(json.dumps({"model": name} | native))


def save_hunyuan(folder: Path) -> None:
    """A folder with HunyuanVideo's other parts; its own transformer is not there, as if left out of the download."""
    torch.manual_seed(22)
    AutoencoderKLHunyuanVideo(
        block_out_channels=(4, 8, 8, 8), layers_per_block=1, norm_num_groups=4, latent_channels=LATENT_CHANNELS
    ).save_pretrained(folder / "vae")
    # HunyuanVideo's own (scheduler/scheduler_config.json).
    FlowMatchEulerDiscreteScheduler(shift=7.0).save_pretrained(folder / "scheduler")
    tokenizer = _save_llama_tokenizer(folder / "tokenizer")
    LlamaModel(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_DIM,
            intermediate_size=32,
            num_hidden_layers=4,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=512,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=5,
        )
    ).save_pretrained(folder / "text_encoder", max_shard_size="30KB")
    vocabulary = _save_clip_tokenizer(folder / "tokenizer_2")
    CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(vocabulary),
            hidden_size=POOLED_DIM,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=77,
            bos_token_id=vocabulary[CLIP_SPECIALS[0]],
            eos_token_id=vocabulary[CLIP_SPECIALS[1]],
        )
    ).save_pretrained(folder / "text_encoder_2")
    index = {
        "_class_name": "HunyuanVideoPipeline",
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "LlamaModel"],
        "text_encoder_2": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "LlamaTokenizerFast"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "transformer": ["diffusers", "HunyuanVideoTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLHunyuanVideo"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))


@dataclass(frozen=True)
class Saved:
    """A model that `save_skyreels` and `save_hunyuan` saved, and how it is loaded."""

    folder: Path
    base: Path
    dtype: torch.dtype = torch.float32
    options: dict[str, str] = field(default_factory=dict)

    def load(self) -> SkyReelsModel:
        """Load it."""
        source = ModelSource(model=str(self.folder), base=str(self.base), offline=True)
        model = load_model(source, options=self.options, device=torch.device("cpu"), dtype=self.dtype)
        assert isinstance(model, SkyReelsModel)
        return model


def make_generator(
    topology: Topology, groups: Groups, saved: Saved, *, cfg: int = 1, context: int = 1
) -> tuple[Generator, ControlPlane]:
    """A generator around it; on a mesh where it is asked for."""
    placed, made = meshed(topology, groups, cfg=cfg, context=context)
    clock = StageClock(topology.device)
    generator = Generator(saved.load(), placed, Axes.build(placed, made, clock), clock)
    return generator, ControlPlane(placed, groups.control)


def final_latents(
    topology: Topology,
    groups: Groups,
    saved: Saved,
    what: GenerationSpec,
    counts: list[int],
    cfg: int = 1,
    context: int = 1,
    records: Records | None = None,
    resume_step: int = 0,
) -> tuple[torch.Tensor, Records]:
    """Final latents of this rank's clip, ``[latent frames, C, h, w]``, and its checkpoints of every step.

    Args:
        counts: frames of each clip.
        cfg, context: sizes of the mesh.
        records, resume_step: checkpoints to go on from.
    """
    generator, control = make_generator(topology, groups, saved, cfg=cfg, context=context)
    layout = generator.plan(what, clips_of(counts))
    store, observer = Store(dict(records or {})), Recorder()

    def agree(ready: bool = True, *, save: bool = False, **more: Any) -> Verdict:
        # Every step is saved, however much that costs here.
        return control.agree(ready, save=observer.stages[-1][1] > resume_step, **more)

    latents = generator.latents("g", what, layout, observer, agree, checkpoints=store, resume_step=resume_step)
    return latents.clone(), store.records


def whole_video(
    topology: Topology, groups: Groups, saved: Saved, what: GenerationSpec
) -> tuple[dict[int, Pixels], bool]:
    """Frames that this rank decoded, by index, and whether it loaded the text encoders."""
    generator, control = make_generator(topology, groups, saved)
    recorder = Recorder()
    generator.generate("g", what, observer=recorder, open_sink=lambda _: recorder, agree=control.agree)
    model = generator.model
    assert isinstance(model, SkyReelsModel)
    return recorder.frames, model.text_encoder.is_loaded


def _save_llama_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Byte pairs as the third Llama's: the instruction before a prompt takes about as many tokens as there."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        special_tokens=list(LLAMA_SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([DEFAULT_PROMPT_TEMPLATE["template"]] * 3, trainer)
    first = LLAMA_SPECIALS[0]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A", special_tokens=[(first, tokenizer.token_to_id(first))]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=first, eos_token="<|end_of_text|>", pad_token="<pad>"
    )
    fast.save_pretrained(folder)
    config = folder / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"tokenizer_class": "LlamaTokenizer"}, indent=2))
    return fast


def _save_clip_tokenizer(folder: Path) -> dict[str, int]:
    """CLIP's, letter by letter."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *CLIP_SPECIALS]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    first, last = CLIP_SPECIALS
    specials = {"bos_token": first, "eos_token": last, "pad_token": last, "unk_token": last}
    (folder / "special_tokens_map.json").write_text(json.dumps(specials))
    config = specials | {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return vocabulary
