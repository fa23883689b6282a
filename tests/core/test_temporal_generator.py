"""Generations of a model with four frames a latent frame: lengths are frames outside, latent frames inside."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.engine import Recorder, spec
from tests.support.mesh import meshed
from tests.support.ranks import RankPool
from tests.support.store import Store
from tests.support.temporal import DECODERS, temporal_model
from tests.support.tiny import tiny_limits
from vinf_core.context.partition import clips_of
from vinf_core.diffusion.preview import Preview
from vinf_core.distributed.axes import Axes
from vinf_core.distributed.control import ControlPlane
from vinf_core.distributed.exchange import Exchange
from vinf_core.distributed.groups import Groups
from vinf_core.distributed.topology import Topology
from vinf_core.engine import probe
from vinf_core.engine.generator import Generator
from vinf_core.engine.limits import check_spec
from vinf_core.engine.probe import probe_lengths
from vinf_core.errors import ConfigError, InvalidSpecError
from vinf_core.events import Pixels, StageClock
from vinf_core.types import Clip, GenerationSpec, PromptSegment, Solver, TemporalScope

FRAMES = 33
ALONE = (Topology.single(), Groups(control=None, data=None))
STORY = (PromptSegment(start_frame=14, prompt="a blue square", transition_frames=6),)


def video(**changes: Any) -> GenerationSpec:
    scope = TemporalScope(local_window_frames=12, global_frames=8, phase_timestep=500, phase_bias=10.0)
    return spec(**({"frame_count": FRAMES, "step_count": 2, "scope": scope, "solver": Solver.DDIM} | changes))


@dataclass
class Made:
    frames: dict[int, Pixels] = field(default_factory=dict)
    clips: tuple[Clip, ...] = ()
    previews: list[tuple[int, ...]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    parts: list[tuple[int, int]] = field(default_factory=list)
    began: list[range] = field(default_factory=list)


class Previews:
    """Takes every preview."""

    has_room = True

    def __init__(self) -> None:
        self.frames: list[tuple[int, ...]] = []

    def send(self, preview: Preview) -> None:
        self.frames.append(preview.frames)


def generated(
    topology: Topology,
    groups: Groups,
    kind: str,
    what: GenerationSpec,
    *,
    counts: Sequence[int] = (),
    first_frame: int = 0,
    one_rank: bool = False,
    resume: bool = False,
    cfg: int = 1,
) -> Made:
    """Make a video, on the way or from the checkpoint after its first step."""
    model = temporal_model(kind, torch.float64)
    model.text_on_one_rank = one_rank
    made = Made()
    encode, begin = model.encode_text, model.begin

    def encode_text(prompts: list[str]) -> torch.Tensor:
        made.texts.extend(prompts)
        return encode(prompts)

    def began(wanted: GenerationSpec, latent_frames: range) -> None:
        assert wanted.frame_count == FRAMES, "told the original"
        made.began.append(latent_frames)
        begin(wanted, latent_frames)

    model.encode_text, model.begin = encode_text, began  # type: ignore[method-assign]
    clock = StageClock(topology.device)
    topology, groups = meshed(topology, groups, cfg=cfg) if cfg > 1 else (topology, groups)
    generator = Generator(model, topology, Axes.build(topology, groups, clock), clock)
    control, recorder, previews, store = ControlPlane(topology, groups.control), Recorder(), Previews(), Store()
    clips = clips_of(counts) if counts else None
    if resume:
        layout = generator.plan(what, clips)
        generator.latents("g", what, layout, recorder, control.agree, checkpoints=store)
        made.texts.clear()
    generator.generate(
        "g",
        what,
        observer=recorder,
        open_sink=lambda _: recorder,
        agree=control.agree,
        clips=clips,
        checkpoints=store,
        resume_step=1 if resume else 0,
        first_frame=first_frame,
        previews=previews,
        preview_interval=1,
    )
    made.frames, made.clips, made.previews = recorder.frames, recorder.clips, previews.frames
    made.parts = sorted({(min(records), len(records)) for records in store.records.values() if records})
    return made


def on_ranks(topology: Topology, groups: Groups, kind: str, what: GenerationSpec, more: dict[str, Any]) -> Made:
    return generated(topology, groups, kind, what, **more)


def check_same(results: Sequence[Made], expected: dict[int, Pixels], *, first: int = 0) -> None:
    got = {index: pixels for made in results for index, pixels in made.frames.items()}
    assert sorted(got) == [index for index in expected if index >= first]
    for index, pixels in got.items():
        # The pictures are float32 before they are rounded: a level may fall to either side.
        apart = int(np.abs(pixels.astype(int) - expected[index].astype(int)).max())
        assert apart <= 1, f"frame {index} is {apart} levels apart"


@pytest.mark.process
@pytest.mark.parametrize(("kind", "world_size"), [("around", 2), ("blend", 3), ("state", 2), ("state", 4)])
def test_the_same_video_on_any_number_of_ranks(rank_pool: RankPool, kind: str, world_size: int) -> None:
    what = video(segments=STORY)
    alone = generated(*ALONE, kind, what)
    assert sorted(alone.frames) == list(range(FRAMES))
    assert alone.clips == (Clip(0, FRAMES),)
    results = rank_pool.run(world_size, on_ranks, kind, what, {})
    check_same(results, alone.frames)
    clips = results[0].clips
    assert sum(clip.count for clip in clips) == FRAMES
    assert all((clip.stop - 1) % 4 == 0 for clip in clips), "clips end with a latent frame"
    parts = [part for made in results for part in made.parts]
    assert parts == [((clip.start + 3) // 4, -(-clip.stop // 4) - (clip.start + 3) // 4) for clip in clips]
    assert [made.began[-1] for made in results] == [range(start, start + count) for start, count in parts]
    for made, clip in zip(results, clips, strict=True):
        shown = {frame for frames in made.previews for frame in frames}
        assert shown
        assert all(frame in clip.frames and (frame == 0 or frame % 4 == 1) for frame in shown)


@pytest.mark.process
def test_it_goes_on_after_a_checkpoint_with_the_clips_it_was_started_with(rank_pool: RankPool) -> None:
    what = video()
    alone = generated(*ALONE, "state", what)
    results = rank_pool.run(2, on_ranks, "state", what, {"counts": [9, 24], "resume": True, "first_frame": 18})
    assert results[0].clips == (Clip(0, 9), Clip(9, 24))
    check_same(results, alone.frames, first=13)  # the chunk that holds frame 18 comes whole


@pytest.mark.process
@pytest.mark.parametrize("kind", ["blend", "state"])
def test_all_ranks_of_a_mesh_decode(rank_pool: RankPool, kind: str) -> None:
    what = video()
    results = rank_pool.run(4, on_ranks, kind, what, {"cfg": 2, "one_rank": True})
    check_same(results, generated(*ALONE, kind, what).frames)
    assert all(made.frames for made in results), "of those that lead no clip, too"
    assert [clip.count for clip in results[0].clips if clip.count] == [17, 16]


@pytest.mark.process
def test_one_rank_encodes_for_all(rank_pool: RankPool) -> None:
    what = video(segments=STORY)
    expected = generated(*ALONE, "around", what)
    results = rank_pool.run(3, on_ranks, "around", what, {"one_rank": True})
    check_same(results, expected.frames)
    assert sorted(results[0].texts) == sorted({what.prompt, "a blue square", ""})
    assert not results[1].texts
    assert not results[2].texts


@pytest.mark.fast
@pytest.mark.parametrize("kind", DECODERS)
def test_its_memory_can_be_tried(kind: str) -> None:
    topology, _ = ALONE
    model = temporal_model(kind)
    clock = StageClock(topology.device)
    generator = Generator(model, topology, Exchange(topology, None, clock), clock)
    generator.probe(8)
    generator.probe_decode()
    assert model.temporal_decoder.chunks


@pytest.mark.fast
@pytest.mark.parametrize("one_rank", [False, True])
def test_no_text_is_encoded_while_a_pass_is_measured(one_rank: bool) -> None:
    topology, _ = ALONE
    model = temporal_model("around")
    model.text_on_one_rank = one_rank
    asked = 0
    encode = model.encode_text

    def encode_text(prompts: list[str]) -> torch.Tensor:
        nonlocal asked
        asked += 1
        return encode(prompts)

    model.encode_text = encode_text  # type: ignore[method-assign]
    clock = StageClock(topology.device)
    generator = Generator(model, topology, Exchange(topology, None, clock), clock)
    for _ in range(3):
        generator.probe(8)
    assert asked == 1
    assert generator.texts.cache.miss_count == 0, "nobody asked for it"
    generator.probe_text()
    assert asked == 2, "measured by itself"


@pytest.mark.fast
def test_a_text_that_does_not_fit_is_said_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text encoder that takes more than the denoiser does, on the rank that encodes for all."""
    topology, _ = ALONE
    clock = StageClock(topology.device)
    generator = Generator(temporal_model("around"), topology, Exchange(topology, None, clock), clock)

    def peak_of(work: Any, device: torch.device) -> int:
        work()
        return 5000 if work == generator.probe_text else 1000

    monkeypatch.setattr(probe, "peak_of", peak_of)
    monkeypatch.setattr(probe, "can_measure", lambda device: True)
    monkeypatch.setattr(probe, "PROBE_FRAMES", 16)

    def measured(budget_bytes: int) -> object:
        return probe.measure_memory(
            generator, ControlPlane(topology, None), budget_bytes=budget_bytes, largest_clip_share=1.0
        )

    assert measured(5000) is not None
    with pytest.raises(ConfigError, match="4999 bytes are less than the 5000 bytes that a rank needs for a text and"):
        measured(4999)


@pytest.mark.fast
@pytest.mark.parametrize("fails", [False, True])
def test_the_model_lets_go_after_the_last_picture(fails: bool) -> None:
    topology, _ = ALONE
    model = temporal_model("around")
    events: list[str] = []

    def began(spec: GenerationSpec, latent_frames: range) -> None:
        events.append("begin")
        if fails:
            raise InvalidSpecError("images: not to my taste")

    def decoded(*args: Any, **kwargs: Any) -> Any:
        events.append("decode")
        return decode(*args, **kwargs)

    decode = model.temporal_decoder.decode_chunk
    model.begin, model.end = began, lambda: events.append("end")  # type: ignore[method-assign]
    model.temporal_decoder.decode_chunk = decoded  # type: ignore[method-assign]
    clock = StageClock(topology.device)
    generator = Generator(model, topology, Exchange(topology, None, clock), clock)

    def generate() -> None:
        generator.generate(
            "g", video(), observer=Recorder(), open_sink=lambda _: Recorder(), agree=ControlPlane(topology, None).agree
        )

    if fails:
        with pytest.raises(InvalidSpecError, match="taste"):
            generate()
        assert events == ["begin", "end"]
        generator.probe(8)  # nothing of the failed generation stays in the way
    else:
        generate()
        assert (events[0], events[-1], set(events[1:-1])) == ("begin", "end", {"decode"})


@pytest.mark.fast
@pytest.mark.parametrize("each", [1, 4, 8, 40])
@pytest.mark.parametrize("seconds", [0.0, 0.1, 1.0, 100.0])
def test_two_passes_of_different_lengths_in_whole_latent_frames(each: int, seconds: float) -> None:
    few, many = probe_lengths(max(1, 16 // each) * each, seconds, each)
    assert 0 < few < many <= max(256, 2 * each)
    assert few % each == many % each == 0


@pytest.mark.fast
def test_what_the_model_cannot_make_is_refused_by_name() -> None:
    limits = dataclasses.replace(
        tiny_limits(), frames_per_latent=4, default_frame_count=13, solvers=(Solver.DDIM,), takes_story=False
    )
    check_spec(video(), limits)
    wrong = video(frame_count=32, solver=Solver.FLOW_EULER, segments=STORY)
    with pytest.raises(InvalidSpecError) as raised:
        check_spec(wrong, limits)
    assert str(raised.value).split("; ") == [
        "frame_count: 32 is not a multiple of 4, plus 1",
        "nearest are 29 or 33",
        "solver: flow_euler is not one of ddim",
        "segments: a count of 1 is not 0, the prompt is one for the whole video",
    ]


@pytest.mark.fast
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"frames_per_latent": 0}, "frames_per_latent: 0"),
        ({"frames_per_latent": 4, "default_frame_count": 12}, "default_frame_count: 12"),
        ({"solvers": (Solver.FLOW_EULER,)}, "default_solver: ddim"),
    ],
)
def test_limits_that_contradict_themselves(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(tiny_limits(), **changes)


@pytest.mark.fast
def test_clips_that_divide_a_latent_frame_are_refused() -> None:
    topology, _ = ALONE
    clock = StageClock(topology.device)
    generator = Generator(temporal_model("state"), topology, Exchange(topology, None, clock), clock)
    with pytest.raises(InvalidSpecError, match="sum to 33"):
        generator.plan(video(), clips_of([32]))
    with pytest.raises(InvalidSpecError, match="frame_count: 32"):
        generator.plan(video(frame_count=32), clips_of([32]))
