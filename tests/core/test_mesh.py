"""The engine on a mesh: the guidance shared by two ranks, clips over the rest, and the same video."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import Attention

from tests.core.test_preview import Shown
from tests.core.test_worker import Script
from tests.support.engine import Recorder, make_generator, spec
from tests.support.ranks import RankPool
from tests.support.store import Store
from tests.support.tiny import tiny_model
from vinf_core.context.partition import clips_of
from vinf_core.distributed.axes import Axes
from vinf_core.distributed.exchange import Exchange
from vinf_core.distributed.groups import Groups
from vinf_core.distributed.topology import Mesh, Topology
from vinf_core.engine.balance import largest_clip_share, slowest_of_clips
from vinf_core.engine.commands import Command, Generate, Stop
from vinf_core.engine.mesh_checks import check_mesh
from vinf_core.engine.mesh_clips import clips_of_mesh, clips_of_ranks
from vinf_core.engine.worker import Outcome, Worker
from vinf_core.errors import ConfigError, InvalidSpecError
from vinf_core.events import Pixels, StageClock, Verdict
from vinf_core.latent_frames import FrameGrid
from vinf_core.types import GenerationSpec, GlobalChoice, PromptSegment, Stage, TemporalScope

ALONE = (Topology.single(), Groups(control=None, data=None))
KEY_FRAMES = TemporalScope(local_window_frames=4, global_frames=3, global_choice=GlobalChoice.KEY_FRAMES)
WINDOWS = TemporalScope(local_window_frames=4, global_frames=0, overlap_frames=6)
STORY = (PromptSegment(start_frame=6, prompt="a blue square", cut=True),)

Records = dict[int, dict[int, bytes]]


@dataclass
class Made:
    """What one rank did in a generation."""

    latents: torch.Tensor
    records: Records
    shown: list[tuple[int, ...]]
    operations: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    """Frame exchanges, reductions and other transfers, by axis."""


def make(
    topology: Topology,
    groups: Groups,
    what: GenerationSpec,
    counts: list[int],
    cfg: int,
    dtype: torch.dtype = torch.float64,
    records: Records | None = None,
    resume_step: int = 0,
    texts_at_once: int = 0,
) -> Made:
    """Latents of this rank's clip, its checkpoints of every step, and what it showed."""
    generator, control, _ = make_generator(topology, groups, dtype, cfg=cfg)
    layout = generator.plan(what, clips_of(counts))
    store, observer, sink = Store(dict(records or {})), Recorder(), Shown()

    def agree(ready: bool = True, *, save: bool = False, **more: Any) -> Verdict:
        # Every step is saved, however much that costs here.
        return control.agree(ready, save=observer.stages[-1][1] > resume_step, **more)

    latents = generator.latents(
        "g",
        what,
        layout,
        observer,
        agree,
        checkpoints=store,
        resume_step=resume_step,
        previews=sink,
        preview_interval=2,
        texts_at_once=texts_at_once,
    )
    axes = generator._axes
    operations = {
        name: (exchange.exchange_count, exchange.reduction_count, exchange.transfer_count)
        for name, exchange in (("world", axes.world), ("clip", axes.clip), ("cfg", axes.cfg))
    }
    return Made(latents.clone(), store.records, [preview.frames for preview in sink.previews], operations)


def off(got: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative L2 error."""
    return float((got - expected).norm() / expected.norm())


@pytest.mark.process
@pytest.mark.parametrize(
    "what",
    [spec(), spec(guidance_scale=1.0), spec(scope=KEY_FRAMES), spec(scope=WINDOWS), spec(segments=STORY)],
    ids=["guided", "not guided", "key frames", "windows", "a story with a cut"],
)
def test_a_mesh_makes_the_video_of_one_rank(rank_pool: RankPool, what: GenerationSpec) -> None:
    alone = make(*ALONE, what, [11], 1).latents
    pair = rank_pool.run(2, make, what, [11], 2)
    four = rank_pool.run(4, make, what, [7, 4], 2)
    assert torch.equal(pair[0].latents, pair[1].latents)
    assert off(pair[0].latents, alone) < 1e-12
    for half in (0, 1):
        assert off(torch.cat([four[half].latents, four[2 + half].latents]), alone) < 1e-12
    assert [rank.shown for rank in four] == [[(0, 3, 6)], [], [(7, 8, 10)], []], "a clip's first rank shows it"
    assert [sorted(rank.records) for rank in four] == [[1, 2, 3], [1, 2, 3], [1, 2, 3], [1, 2, 3]]
    assert [sorted(rank.records[3]) for rank in four] == [[*range(7)], [], [*range(7, 11)], []]


@pytest.mark.process
def test_sharing_the_guidance_changes_no_bit_of_one_text_at_a_time(rank_pool: RankPool) -> None:
    what = spec()
    alone = make(*ALONE, what, [11], 1, torch.float32, texts_at_once=1).latents
    assert all(torch.equal(rank.latents, alone) for rank in rank_pool.run(2, make, what, [11], 2, torch.float32))


@pytest.mark.process
def test_what_travels_along_which_axis(rank_pool: RankPool) -> None:
    what = spec()
    plain = rank_pool.run(2, make, what, [7, 4], 1, torch.float64, None, 0, 1)
    shared = rank_pool.run(4, make, what, [7, 4], 2)
    for rank in shared:
        assert rank.operations["world"] == (0, 0, 0)
        assert rank.operations["cfg"] == (0, 0, what.step_count), "one gather a step"
        assert [2 * count for count in rank.operations["clip"]] == list(plain[0].operations["clip"]), (
            "one text instead of two"
        )


@pytest.mark.process
@pytest.mark.parametrize("cfg", [1, 2])
def test_a_clip_without_frames_walks_along(rank_pool: RankPool, cfg: int) -> None:
    what = spec(frame_count=1)
    alone = make(*ALONE, what, [1], 1).latents
    ranks = rank_pool.run(4, make, what, [1, 0] if cfg == 2 else [1, 0, 0, 0], cfg)
    for index, rank in enumerate(ranks):
        leads = index // cfg == 0
        assert rank.latents.shape[0] == leads
        assert not leads or off(rank.latents, alone) < 1e-12


@pytest.mark.process
def test_a_checkpoint_goes_on_in_any_mesh(rank_pool: RankPool) -> None:
    what = spec(step_count=2, scope=KEY_FRAMES)
    expected = make(*ALONE, what, [11], 1).latents
    records = {}
    for name, counts, cfg in (("three", [4, 0, 7], 1), ("mesh", [7, 4], 2)):
        begun = rank_pool.run(len(counts) * cfg, make, what, counts, cfg)
        records[name] = {1: {frame: record for rank in begun for frame, record in rank.records[1].items()}}
    for source, counts, cfg in (("three", [5, 6], 2), ("mesh", [11], 1), ("mesh", [11], 2), ("mesh", [3, 0, 8], 1)):
        ranks = rank_pool.run(len(counts) * cfg, make, what, counts, cfg, torch.float64, records[source], 1)
        got = torch.cat([rank.latents for rank in ranks[::cfg]])
        assert off(got, expected) < 1e-12, f"begun by {source}, went on as {counts} with {cfg} a clip"


@dataclass
class Served:
    """What one rank made of its orders."""

    frames: dict[int, Pixels]
    clips: tuple[int, ...]
    texts_at_once: int
    outcomes: list[tuple[str, Outcome, str]]


class Listener(Script):
    """Keeps the clips that it is told."""

    def started(self, generation_id: str, clips: Any, texts_at_once: int) -> None:
        self.clips, self.texts_at_once = clips, texts_at_once


def serve(topology: Topology, groups: Groups, orders: list[Command], cfg: int, records: Records) -> Served:
    """Serve orders; all of them with the same checkpoints."""
    generator, control, _ = make_generator(topology, groups, torch.float32, cfg=cfg)
    listener = Listener(orders=list(orders)) if topology.is_coordinator else None
    sink, store = Recorder(), Store(dict(records))
    Worker(generator, control, lambda _: sink, listener, open_checkpoints=lambda _: store).serve()
    if listener is None:
        return Served(sink.frames, (), 0, [])
    return Served(sink.frames, tuple(clip.count for clip in listener.clips), listener.texts_at_once, listener.outcomes)


def frames_of(ranks: list[Served]) -> dict[int, Pixels]:
    frames: dict[int, Pixels] = {}
    for rank in ranks:
        assert not frames.keys() & rank.frames.keys(), "a frame was decoded twice"
        frames |= rank.frames
    return frames


@pytest.mark.process
def test_every_rank_decodes_and_clips_are_told_one_a_rank(rank_pool: RankPool) -> None:
    what = spec(frame_count=19)
    orders: list[Command] = [Generate("g", what), Stop()]
    alone = rank_pool.run(1, serve, orders, 1, {})
    ranks = rank_pool.run(4, serve, orders, 2, {})
    assert (ranks[0].clips, ranks[0].texts_at_once) == ((10, 0, 9, 0), 1)
    assert ranks[0].outcomes == [("g", Outcome.SUCCEEDED, "")]
    assert all(rank.frames for rank in ranks), "decoding is dealt to all ranks of the world"
    got, expected = frames_of(ranks), alone[0].frames
    assert sorted(got) == sorted(expected) == list(range(19))
    for index, pixels in expected.items():
        np.testing.assert_allclose(got[index].astype(int), pixels.astype(int), atol=1)


@pytest.mark.process
def test_clips_of_another_mesh_are_chosen_anew(rank_pool: RankPool) -> None:
    """A generation that was begun on a mesh goes on in another one, with what that one decides."""
    what = spec(step_count=2)
    begun = rank_pool.run(4, make, what, [7, 4], 2, torch.float32)
    records = {1: {f: record for rank in begun for f, record in rank.records[1].items()}}
    for told, cfg, expected in (
        ((7, 0, 4, 0), 2, (7, 0, 4, 0)),
        ((3, 3, 3, 2), 2, (6, 0, 5, 0)),
        ((7, 0, 4, 0), 1, (3, 3, 3, 2)),
    ):
        order = Generate("g", what, told, resume_step=1)
        ranks = rank_pool.run(4, serve, [order, Stop()], cfg, records)
        assert ranks[0].clips == expected
        assert ranks[0].outcomes == [("g", Outcome.SUCCEEDED, "")]
        assert sorted(frames_of(ranks)) == list(range(11))


@pytest.mark.process
@pytest.mark.parametrize("told", [(5, 0, 5, 0), (11, 0), (12, 0, -1, 0)])
def test_clips_that_are_none_of_the_video_fail_alone(rank_pool: RankPool, told: tuple[int, ...]) -> None:
    orders: list[Command] = [Generate("odd", spec(), told), Generate("ok", spec()), Stop()]
    ranks = rank_pool.run(4, serve, orders, 2, {})
    assert ranks[0].outcomes == [("odd", Outcome.FAILED, "INVALID_FIELD"), ("ok", Outcome.SUCCEEDED, "")]


@pytest.mark.process
def test_cancelling_reaches_every_rank_of_a_clip(rank_pool: RankPool) -> None:
    assert rank_pool.run(4, cancelled) == [1] * 4


def cancelled(topology: Topology, groups: Groups) -> int:
    """Steps that this rank had done when a cancel after the first took effect."""
    generator, control, _ = make_generator(topology, groups, torch.float32, cfg=2)
    script = Script(orders=[Generate("g", spec(step_count=9)), Stop()], cancel_at={"g": (Stage.DENOISE, 1)})
    Worker(generator, control, lambda _: Recorder(), script if topology.is_coordinator else None).serve()
    return generator.steps[0]


@pytest.mark.fast
def test_lengths_inside_and_outside() -> None:
    mesh = Mesh(cfg=2, context=2)
    clips = clips_of([5, 0, 6])
    told = [clip.count for clip in clips_of_ranks(clips, mesh)]
    assert told == [5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0]
    assert clips_of_mesh([5, 0, 0, 0, 6, 0, 0, 0], mesh, FrameGrid()) == clips_of([5, 6])
    assert clips_of_mesh([1, 0, 0, 0, 0, 0, 0, 0], mesh, FrameGrid()) == clips_of([1, 0]), "fewer frames than clips"
    assert clips_of_mesh([5, 0, 6, 0], mesh, FrameGrid()) is None, "a rank that leads nothing has frames"
    assert clips_of_mesh([5, 0, 6, 0], Mesh(), FrameGrid()) is None, "ranks without frames, and frames enough"
    assert clips_of_mesh([5, 6], Mesh(), FrameGrid()) == clips_of([5, 6])
    of_four = FrameGrid(4)
    assert clips_of_mesh([1, 4, 4, 0], Mesh(), of_four) == clips_of([1, 4, 4, 0]), "three latent frames for four clips"
    assert clips_of_mesh([1, 4, 8, 0], Mesh(), of_four) is None, "four latent frames for four clips"
    with pytest.raises(InvalidSpecError, match="less than 0"):
        clips_of_mesh([5, 0, -1, 0], Mesh(cfg=2), FrameGrid())


@pytest.mark.fast
def test_ranks_of_a_clip_are_as_fast_as_the_slowest() -> None:
    mesh = Mesh(cfg=2)
    assert slowest_of_clips([5, 4, 2, 3], mesh) == [4, 2]
    assert largest_clip_share("even", 4, mesh) == 1 / 2
    assert largest_clip_share((2.0, 3.0, 1.0, 1.0), 4, mesh) == 2 / 3
    assert largest_clip_share("measured", 4, mesh) == 1.0


@pytest.mark.fast
def test_a_mesh_needs_its_axes() -> None:
    topology = Topology(rank=0, world_size=2, device=torch.device("cpu"), mesh=Mesh(cfg=2))
    with pytest.raises(ConfigError, match="needs an exchange for each axis"):
        Axes.alone(Exchange(topology, None, StageClock(topology.device)))


@pytest.mark.fast
def test_only_tokens_of_joint_attentions_can_be_shared() -> None:
    model = tiny_model()
    check_mesh(model, Mesh(cfg=2))
    with pytest.raises(ConfigError, match="context-ranks: 2 is not 1, which is all that the model tiny allows"):
        check_mesh(model, Mesh(context=2))
    # Any attention will do to count heads.
    name = next(name for name, module in model.unet.named_modules() if isinstance(module, Attention))
    heads = model.unet.get_submodule(name).heads
    model.temporal_sites = replace(model.temporal_sites, joint_attentions=(name,))
    check_mesh(model, Mesh(context=heads))
    with pytest.raises(ConfigError, match=f"{heads + 1} does not divide the model's {heads} attention heads"):
        check_mesh(model, Mesh(context=heads + 1))
