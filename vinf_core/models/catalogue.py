"""What models there are, as plain facts: reading it imports no torch, so that a mistyped name is answered at once.

Third parties add their own by an entry point of the group ``vinf.models`` whose value is a `ModelCard`; the module that
holds it should import nothing heavy either.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from vinf_core.errors import ConfigError, ModelNotFoundError
from vinf_core.types import ImageFrames

ENTRY_POINT_GROUP = "vinf.models"

_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,62}")


@dataclass(frozen=True, slots=True)
class ModelOption:
    """A choice a model offers to whoever serves it."""

    name: str
    values: tuple[str, ...]
    """The first one is the default."""
    meaning: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelCard:
    """A model, as users choose it by name and as `vinf models` lists it.

    Raises:
        ValueError: the name is not one that users could type.
    """

    name: str
    """What users call it: lower-case letters, digits, dots and hyphens."""
    title: str
    """What its authors call it."""
    adapter: str
    """The module that loads it; see docs/adapters.md for what it must hold."""
    licence: str
    """Of the weights: an SPDX expression, or its name where there is none."""
    parameter_count: int
    """Of the denoiser."""
    width: int
    """Native size in pixels."""
    height: int
    frame_count: int
    """Frames it was trained on at a time."""
    frame_rate: int
    """Frames a second of its videos."""
    hub_id: str = ""
    """Where it is published, as OWNER/NAME on the hub; empty: nowhere, it comes with its package."""
    revision: str = ""
    """Branch, tag or commit there that holds safetensors; empty: the main branch."""
    base_hub_id: str = ""
    """Where the parts come from that `hub_id` lacks: autoencoder, text encoder, tokenizer, scheduler."""
    extends_base: bool = False
    """Whether the denoiser is one that adds to that of the base, which is then needed too."""
    folder: str = ""
    """Where its files are when it comes with its package; else they are looked for."""
    denoiser: str = "unet"
    """The subfolder that holds the denoiser."""
    config_values: tuple[tuple[str, object], ...] = ()
    """What the denoiser's ``config.json`` says in a folder that holds this model: a value, or a tuple of those that it
    may be; None: the key is not there. Empty: a folder is never taken for this model."""

    options: tuple[ModelOption, ...] = ()
    image_frames: ImageFrames = ImageFrames.NONE
    """Which frames images may be given for; the same as in its `ModelLimits`."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"name: {self.name!r} is not made of lower-case letters, digits, dots and hyphens")

    def fits(self, config: Mapping[str, Any]) -> bool:
        """Whether a denoiser's configuration is one of this model."""
        return bool(self.config_values) and all(
            config.get(key) in (value if isinstance(value, tuple) else (value,)) for key, value in self.config_values
        )

    def choose(self, given: Mapping[str, str]) -> dict[str, str]:
        """Every option with its value, as given or by default.

        Raises:
            ConfigError: there is no such option, or no such value.
        """
        known = {option.name: option for option in self.options}
        for name, value in given.items():
            if name not in known:
                raise ConfigError(f"model option: {self.name} has no {name!r}, it has {', '.join(known) or 'none'}")
            if value not in known[name].values:
                raise ConfigError(f"model option: {name}={value} is not one of {', '.join(known[name].values)}")
        return {name: given.get(name, option.values[0]) for name, option in known.items()}


WEIGHTS_OPTION = ModelOption(
    "weights", ("stored", "fp8"), "fp8: those of the blocks' linear layers in 8 bits, which needs torchao"
)
OFFLOAD_OPTION = ModelOption(
    "offload", ("none", "blocks"), "blocks: weights stay on the host and visit the GPU block by block"
)
VAE_TILING_OPTION = ModelOption(
    "vae-tiling", ("on", "off"), "whether pictures above 256 pixels are decoded in tiles, which takes far less memory"
)
_EASYANIMATE_OPTIONS = (
    ModelOption(
        "vae",
        ("exact", "parallel"),
        "exact: pictures are those of one decoder, one chunk after the other; parallel: nearly those, all at once",
    ),
    WEIGHTS_OPTION,
    OFFLOAD_OPTION,
)

BUILT_IN = (
    ModelCard(
        name="sprites",
        title="vinf sprites",
        adapter="vinf_core.models.sprites",
        licence="Apache-2.0",
        parameter_count=3_698_708,
        width=64,
        height=64,
        frame_count=16,
        frame_rate=8,
        folder="sprites",
    ),
    ModelCard(
        name="videocrafter2",
        title="VideoCrafter2",
        adapter="vinf_core.models.videocrafter2",
        licence="VideoCrafter (research only)",
        parameter_count=1_413_284_420,
        width=512,
        height=320,
        frame_count=16,
        frame_rate=24,
        hub_id="adamdad/videocrafterv2_diffusers",
        base_hub_id="ali-vilab/text-to-video-ms-1.7b",
        config_values=(("fps_cond", True),),
        options=(
            ModelOption(
                "latent-scale", ("on", "off"), "the scale of latents it was trained with; off: as if there were none"
            ),
        ),
    ),
    ModelCard(
        name="modelscope",
        title="ModelScope text-to-video 1.7B",
        adapter="vinf_core.models.modelscope",
        licence="CC-BY-NC-4.0",
        parameter_count=1_411_233_860,
        width=256,
        height=256,
        frame_count=16,
        frame_rate=8,
        hub_id="ali-vilab/text-to-video-ms-1.7b",
        config_values=(("_class_name", "UNet3DConditionModel"), ("fps_cond", None)),
    ),
    ModelCard(
        name="zeroscope-v2",
        title="ZeroScope v2 576w",
        adapter="vinf_core.models.modelscope",
        licence="CC-BY-NC-4.0",
        parameter_count=1_411_233_860,
        width=576,
        height=320,
        frame_count=24,
        frame_rate=24,
        hub_id="cerspense/zeroscope_v2_576w",
        revision="refs/pr/46",
    ),
    ModelCard(
        name="animatediff-v2",
        title="AnimateDiff v2 on Stable Diffusion 1.5",
        adapter="vinf_core.models.animatediff",
        licence="Apache-2.0; base: CreativeML Open RAIL-M",
        parameter_count=1_312_730_244,
        width=512,
        height=512,
        frame_count=16,
        frame_rate=8,
        hub_id="guoyww/animatediff-motion-adapter-v1-5-2",
        base_hub_id="stable-diffusion-v1-5/stable-diffusion-v1-5",
        extends_base=True,
        config_values=(("_class_name", ("MotionAdapter", "UNetMotionModel")), ("use_motion_mid_block", True)),
    ),
    ModelCard(
        name="animatediff-v3",
        title="AnimateDiff v3 on Stable Diffusion 1.5",
        adapter="vinf_core.models.animatediff",
        licence="Apache-2.0; base: CreativeML Open RAIL-M",
        parameter_count=1_276_658_564,
        width=512,
        height=512,
        frame_count=16,
        frame_rate=8,
        hub_id="guoyww/animatediff-motion-adapter-v1-5-3",
        base_hub_id="stable-diffusion-v1-5/stable-diffusion-v1-5",
        extends_base=True,
        config_values=(("_class_name", ("MotionAdapter", "UNetMotionModel")), ("use_motion_mid_block", False)),
    ),
    ModelCard(
        name="skyreels-v1-t2v",
        title="SkyReels-V1, text to video",
        adapter="vinf_core.models.skyreels",
        licence="see its page; base: Tencent Hunyuan Community",
        parameter_count=12_821_012_544,
        width=960,
        height=544,
        frame_count=97,
        frame_rate=24,
        hub_id="Skywork/SkyReels-V1-Hunyuan-T2V",
        base_hub_id="hunyuanvideo-community/HunyuanVideo",
        denoiser="transformer",
        config_values=(
            ("_class_name", "HunyuanVideoTransformer3DModel"),
            ("in_channels", 16),
            ("image_condition_type", None),
        ),
        options=(WEIGHTS_OPTION, OFFLOAD_OPTION, VAE_TILING_OPTION),
    ),
    ModelCard(
        name="skyreels-v1-i2v",
        title="SkyReels-V1, image to video",
        adapter="vinf_core.models.skyreels",
        licence="see its page; base: Tencent Hunyuan Community",
        parameter_count=12_821_209_152,
        width=960,
        height=544,
        frame_count=97,
        frame_rate=24,
        hub_id="Skywork/SkyReels-V1-Hunyuan-I2V",
        base_hub_id="hunyuanvideo-community/HunyuanVideo",
        denoiser="transformer",
        config_values=(
            ("_class_name", "HunyuanVideoTransformer3DModel"),
            ("in_channels", 32),
            ("image_condition_type", None),
        ),
        options=(WEIGHTS_OPTION, OFFLOAD_OPTION, VAE_TILING_OPTION),
        image_frames=ImageFrames.FIRST,
    ),
    ModelCard(
        name="easyanimate-v5.1-12b-inp",
        title="EasyAnimate V5.1 12B, from first and last images too",
        adapter="vinf_core.models.easyanimate",
        licence="Apache-2.0",
        parameter_count=11_799_265_856,
        width=512,
        height=512,
        frame_count=49,
        frame_rate=8,
        hub_id="alibaba-pai/EasyAnimateV5.1-12b-zh-InP-diffusers",
        denoiser="transformer",
        config_values=(
            ("_class_name", "EasyAnimateTransformer3DModel"),
            ("in_channels", 33),
            ("num_layers", 48),
        ),
        options=_EASYANIMATE_OPTIONS,
        image_frames=ImageFrames.FIRST_AND_LAST,
    ),
    ModelCard(
        name="easyanimate-v5.1-7b-inp",
        title="EasyAnimate V5.1 7B, from first and last images too",
        adapter="vinf_core.models.easyanimate",
        licence="Apache-2.0",
        parameter_count=6_814_670_912,
        width=512,
        height=512,
        frame_count=49,
        frame_rate=8,
        hub_id="alibaba-pai/EasyAnimateV5.1-7b-zh-InP-diffusers",
        denoiser="transformer",
        config_values=(
            ("_class_name", "EasyAnimateTransformer3DModel"),
            ("in_channels", 33),
        ),
        options=_EASYANIMATE_OPTIONS,
        image_frames=ImageFrames.FIRST_AND_LAST,
    ),
    ModelCard(
        name="easyanimate-v5.1-12b",
        title="EasyAnimate V5.1 12B, from text alone",
        adapter="vinf_core.models.easyanimate",
        licence="Apache-2.0",
        parameter_count=11_799_056_960,
        width=512,
        height=512,
        frame_count=49,
        frame_rate=8,
        hub_id="alibaba-pai/EasyAnimateV5.1-12b-zh-diffusers",
        denoiser="transformer",
        config_values=(
            ("_class_name", "EasyAnimateTransformer3DModel"),
            ("in_channels", 16),
            ("num_layers", 48),
        ),
        options=_EASYANIMATE_OPTIONS,
    ),
    ModelCard(
        name="easyanimate-v5.1-7b",
        title="EasyAnimate V5.1 7B, from text alone",
        adapter="vinf_core.models.easyanimate",
        licence="Apache-2.0",
        parameter_count=6_814_462_016,
        width=512,
        height=512,
        frame_count=49,
        frame_rate=8,
        hub_id="alibaba-pai/EasyAnimateV5.1-7b-zh-diffusers",
        denoiser="transformer",
        config_values=(
            ("_class_name", "EasyAnimateTransformer3DModel"),
            ("in_channels", 16),
        ),
        options=_EASYANIMATE_OPTIONS,
    ),
)


@cache
def catalogue() -> dict[str, ModelCard]:
    """Every model by name, our own first.

    Raises:
        ModelNotFoundError: a package offers something else than a card, or a name that is taken.
    """
    cards = {card.name: card for card in BUILT_IN}
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        where = f"entry point {entry.name!r} ({entry.value})"
        try:
            card = entry.load()
        except Exception as error:  # whatever somebody else's module does
            raise ModelNotFoundError(f"model: {where} cannot be loaded: {error}") from error
        if not isinstance(card, ModelCard):
            raise ModelNotFoundError(f"model: {where} is a {type(card).__name__}, not a ModelCard")
        if card.name in cards:
            raise ModelNotFoundError(f"model: {where} offers {card.name!r}, a name that is taken")
        cards[card.name] = card
    return cards
