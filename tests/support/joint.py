"""Tiny 3-D transformers with random weights and their calls over clips, as functions that a rank pool can run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from unittest import mock

import torch
from diffusers import EasyAnimateTransformer3DModel, HunyuanVideoTransformer3DModel

from tests.support.mesh import meshed
from tests.support.tiny import randomise_zeroed
from vinf_core.context.blocks import AttentionPlan
from vinf_core.context.clip_context import ClipContext
from vinf_core.context.install import install
from vinf_core.context.joint_plan import JointPlan
from vinf_core.context.layout import Layout
from vinf_core.context.partition import clips_of
from vinf_core.distributed.axes import Axes
from vinf_core.distributed.exchange import Exchange
from vinf_core.distributed.groups import Groups
from vinf_core.distributed.topology import Topology
from vinf_core.events import StageClock
from vinf_core.models.adapter import TemporalSites
from vinf_core.types import TemporalScope

TRAINED = 6
"""Latent frames."""
WHOLE = TemporalScope(local_window_frames=4, global_frames=2)
"""Narrower than the trained length: a short scene is seen whole nevertheless."""
ALONE = (Topology.single(), Groups(control=None, data=None))


@dataclass(frozen=True)
class Case:
    """What a transformer is called with."""

    family: str = "hunyuan"
    batch: int = 1
    dtype: torch.dtype = torch.float64
    rows: int = 3
    """Of tokens; two columns."""
    texts: tuple[int, ...] = (5, 3)
    """Tokens of every batch entry's text that are no padding, of five; only Hunyuan pads."""


def tiny_transformer(case: Case) -> torch.nn.Module:
    """Of both kinds of blocks: with weights of the text's own, and without."""
    torch.manual_seed(1)
    if case.family == "hunyuan":
        transformer: torch.nn.Module = HunyuanVideoTransformer3DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=4,
            attention_head_dim=12,
            num_layers=1,
            num_single_layers=2,
            num_refiner_layers=1,
            mlp_ratio=2.0,
            text_embed_dim=8,
            pooled_projection_dim=8,
            rope_axes_dim=(4, 4, 4),
        )
    else:
        transformer = EasyAnimateTransformer3DModel(
            num_attention_heads=4,
            attention_head_dim=16,
            in_channels=9,
            out_channels=4,
            patch_size=2,
            num_layers=3,
            mmdit_layers=2,
            time_embed_dim=16,
            text_embed_dim=8,
        )
    randomise_zeroed(transformer)
    return transformer.to(case.dtype).eval().requires_grad_(False)


def sites_of(transformer: torch.nn.Module) -> TemporalSites:
    """The attentions of its blocks."""
    names = [
        name
        for name, module in transformer.named_modules()
        if type(getattr(module, "processor", None)).__name__.startswith(("HunyuanVideo", "EasyAnimate"))
    ]
    return TemporalSites((), (), position_count=TRAINED, joint_attentions=tuple(names))


def install_alone(
    transformer: torch.nn.Module, counts: list[int], scope: TemporalScope, device: str = "cpu"
) -> ClipContext:
    """Install clip parallelism in a world of one, between begin and end of a step."""
    context = ClipContext(Exchange(Topology.single(device), None, StageClock(torch.device("cpu"))))
    install(transformer.to(device), sites_of(transformer), context)
    context.begin_generation(
        Layout.build(clips_of(counts), 0, scope, position_count=TRAINED, joint=True, device=device)
    )
    context.begin_step(500.0)
    return context


def run_transformer(
    transformer: torch.nn.Module, case: Case, frames: range, timestep: float, device: str = "cpu"
) -> torch.Tensor:
    """Call it on some latent frames of a video that is the same everywhere: ``[batch, 4, f, h, w]``."""
    generator = torch.Generator().manual_seed(3)

    def made(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator).to(device, case.dtype)

    text, pooled = made(2, 5, 8), made(2, 8)
    video = torch.stack([made(2, 9, 2 * case.rows, 4) for _ in range(frames.stop)], dim=2)
    video, text, pooled = video[: case.batch, :, frames.start :], text[: case.batch], pooled[: case.batch]
    steps = torch.full((case.batch,), timestep, device=device)
    with torch.inference_mode():
        if case.family == "hunyuan":
            mask = torch.arange(5)[None] < torch.tensor(case.texts[: case.batch])[:, None]
            return transformer(
                video[:, :4],
                steps.to(case.dtype),
                text,
                mask.to(device, torch.int64),
                pooled,
                torch.full((case.batch,), 1000.0, dtype=case.dtype, device=device),
                return_dict=False,
            )[0]
        return transformer(
            video[:, :4], steps, encoder_hidden_states=text, inpaint_latents=video[:, 4:], return_dict=False
        )[0]


def received_bytes(topology: Topology, groups: Groups, case: Case, counts: list[int], scope: TemporalScope) -> int:
    """What a rank receives from the other clips in one call."""
    axes = Axes.build(topology, groups, StageClock(topology.device))
    call_joint(topology, groups, case, counts, scope, clip_axis=axes.clip)
    return axes.clip.received_bytes


def _cut(plan: AttentionPlan | JointPlan, without: str) -> JointPlan:
    """A plan with some of its segments left out."""
    assert isinstance(plan, JointPlan)
    if without == "remote":
        return replace(plan, groups=tuple(replace(group, remote=()) for group in plan.groups))
    return replace(plan, text=None) if without == "text" else plan


@contextmanager
def exact_rotation() -> Iterator[None]:
    """Let diffusers rotate float64 states in float64; it rounds them to float32 otherwise."""

    def rotated(states: torch.Tensor, table: tuple[torch.Tensor, torch.Tensor], sequence_dim: int = 2) -> torch.Tensor:
        cosines, sines = (
            half[None, None] if sequence_dim == 2 else half[None, :, None] for half in (table[0], table[1])
        )
        real, imaginary = states.unflatten(-1, (-1, 2)).unbind(-1)
        return (states * cosines + torch.stack((-imaginary, real), dim=-1).flatten(-2) * sines).to(states.dtype)

    with mock.patch("diffusers.models.embeddings.apply_rotary_emb", rotated):
        yield


def call_stock(case: Case, frame_count: int, timestep: float = 500.0) -> torch.Tensor:
    """The stock transformer on a whole video."""
    with exact_rotation():
        return run_transformer(tiny_transformer(case), case, range(frame_count), timestep)


def call_joint(
    topology: Topology,
    groups: Groups,
    case: Case,
    counts: list[int],
    scope: TemporalScope,
    timestep: float = 500.0,
    context: int = 1,
    without: str = "",
    clip_axis: Exchange | None = None,
) -> torch.Tensor:
    """One call on this rank's clip; of ``len(counts)`` clips, each of ``context`` ranks.

    Args:
        topology, groups: as the pool gives them.
        case: what is called.
        counts: latent frames of every clip.
        scope, timestep: what queries see and favour.
        context: ranks of a clip.
        clip_axis: carries what travels between clips; None: one of its own.
        without: ``"remote"``: what other clips send is left out; ``"text"``: so is all video of the text's sight.
    """
    topology, groups = meshed(topology, groups, context=context) if context > 1 else (topology, groups)
    axes = Axes.build(topology, groups, StageClock(topology.device))
    transformer = tiny_transformer(case)
    sites = sites_of(transformer)
    clip_context = ClipContext(clip_axis or axes.clip, axes.context)
    install(transformer, sites, clip_context)
    clips = clips_of(counts)
    layout = Layout.build(clips, topology.clip_index, scope, position_count=TRAINED, joint=True, dtype=case.dtype)
    clip_context.begin_generation(replace(layout, global_phase=_cut(layout.global_phase, without)))
    clip_context.begin_step(timestep)
    # An empty clip walks along with an idle frame.
    frames = layout.clip.frames or range(1)
    out = run_transformer(transformer, case, frames, timestep)
    return out[:, :, : layout.clip.count].clone()
