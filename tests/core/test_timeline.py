"""The text of every frame: exact weights, no trace of clip boundaries, and videos that follow their timeline."""

from __future__ import annotations

import pytest
import torch

from tests.support.engine import Recorder, make_generator, spec
from tests.support.sprites import load_sprites
from vinf_core.context.partition import clips_of
from vinf_core.diffusion.timeline import Blend, ClipTimeline
from vinf_core.distributed.control import ControlPlane
from vinf_core.distributed.exchange import Exchange
from vinf_core.distributed.groups import Groups
from vinf_core.distributed.topology import Topology
from vinf_core.engine.generator import Generator
from vinf_core.events import StageClock
from vinf_core.types import GenerationSpec, PromptSegment, TemporalScope

pytestmark = pytest.mark.fast

ALONE = (Topology.single(), Groups(control=None, data=None))
RED, STAR, BOX = (
    "a red ball bouncing over the sea",
    "a yellow star circling over the city",
    "a purple box sliding over the meadow",
)
STORY = (
    PromptSegment(start_frame=9, prompt=STAR, transition_frames=3),
    PromptSegment(start_frame=12, prompt=BOX),
    PromptSegment(start_frame=20, prompt=RED, transition_frames=16),
    PromptSegment(start_frame=40, prompt=STAR, cut=True),
)
TOKENS, DIM = 7, 6


def embeddings(count: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(11)
    return [torch.randn(TOKENS, DIM, generator=generator, dtype=torch.float64).to(dtype) for _ in range(count)]


def test_one_prompt_is_one_text_for_all_frames() -> None:
    timeline = ClipTimeline.build(RED, (), range(5, 30))
    assert timeline.prompts == (RED,)
    assert set(timeline.blends) == {Blend(0, 0, 1.0)}
    (text,) = embeddings(1)
    assert torch.equal(timeline.embed([text], None), text[None, None])
    negative = text + 1
    assert torch.equal(timeline.embed([text], negative), torch.stack([negative[None], text[None]]))


def test_weights_of_a_transition() -> None:
    segments = (PromptSegment(start_frame=3, prompt=STAR, transition_frames=4),)
    timeline = ClipTimeline.build(RED, segments, range(10))
    assert timeline.prompts == (RED, STAR)
    mixing = [Blend(0, 1, weight) for weight in (1 / 5, 2 / 5, 3 / 5, 4 / 5)]
    assert list(timeline.blends) == [Blend(0, 0, 1.0)] * 3 + mixing + [Blend(1, 1, 1.0)] * 3
    red, star = embeddings(2, torch.float64)
    text = timeline.embed([red, star], None)
    assert text.shape == (1, 10, TOKENS, DIM)
    assert torch.equal(text[0, 2], red), "frames before the segment have the old text to the bit"
    assert torch.equal(text[0, 7], star), "frames after the transition have the new text to the bit"
    torch.testing.assert_close(text[0, 4], 0.6 * red + 0.4 * star, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("cut", [False, True])
def test_without_a_transition_the_text_changes_at_once(cut: bool) -> None:
    timeline = ClipTimeline.build(RED, (PromptSegment(start_frame=2, prompt=STAR, cut=cut),), range(4))
    assert [timeline.prompts[blend.after] for blend in timeline.blends] == [RED, RED, STAR, STAR]
    assert {blend.weight for blend in timeline.blends} == {1.0}


def test_a_transition_to_the_same_prompt_changes_nothing() -> None:
    timeline = ClipTimeline.build(RED, (PromptSegment(start_frame=2, prompt=RED, transition_frames=5),), range(9))
    assert set(timeline.blends) == {Blend(0, 0, 1.0)}


def test_every_prompt_once_and_only_those_the_frames_see() -> None:
    assert ClipTimeline.build(RED, STORY, range(47)).prompts == (RED, STAR, BOX)
    assert ClipTimeline.build(RED, STORY, range(9)).prompts == (RED,)
    assert ClipTimeline.build(RED, STORY, range(11, 12)).prompts == (RED, STAR)
    assert ClipTimeline.build(RED, STORY, range(36, 47)).prompts == (RED, STAR)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_negative_prompt_is_the_same_for_all_frames(dtype: torch.dtype) -> None:
    timeline = ClipTimeline.build(RED, STORY, range(47))
    *prompts, negative = embeddings(4, dtype)
    text = timeline.embed(prompts, negative)
    assert text.shape == (2, 47, TOKENS, DIM)
    assert text.dtype == dtype
    assert torch.equal(text[0], negative.expand(47, -1, -1))


@pytest.mark.parametrize("counts", [[24, 23], [10, 21, 16], [0, 46, 1, 0]], ids=str)
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_clip_boundaries_do_not_show(counts: list[int], guidance_scale: float) -> None:
    """Each rank of its own: what one has cached must not matter to another."""
    story = spec(frame_count=47, segments=STORY, negative_prompt="a white star", guidance_scale=guidance_scale)
    (whole,) = clips_of([47])
    expected = make_generator(*ALONE, torch.float32)[0].texts.encode(story, whole.frames)
    assert expected.shape[:2] == (2 if guidance_scale > 1 else 1, 47)
    for clip in clips_of(counts):
        text = make_generator(*ALONE, torch.float32)[0].texts.encode(story, clip.frames)
        assert text.shape[1] in (1, max(1, clip.count))
        if clip.count:
            assert torch.equal(text.expand(-1, clip.count, -1, -1), expected[:, clip.start : clip.stop])
        else:
            assert torch.equal(text, expected[:, :1]), "the idle frame of an empty clip is frame 0"


def sprites_generator() -> tuple[Generator, ControlPlane]:
    topology, groups = ALONE
    clock = StageClock(topology.device)
    model = load_sprites(topology.device)
    return Generator(model, topology, Exchange(topology, groups.data, clock), clock), ControlPlane(*ALONE[:1], None)


def latents(generator: Generator, control: ControlPlane, what: GenerationSpec) -> torch.Tensor:
    return generator.latents("g", what, generator.plan(what), Recorder(), control.agree)


def test_a_story_follows_its_timeline() -> None:
    """Convolutions and norms still join the frames, so a frame is not the very one of its prompt's own video; but away
    from the change it is nearer to that video than to the other prompt's."""
    generator, control = sprites_generator()
    alone = TemporalScope(local_window_frames=0, global_frames=0)
    values = {"width": 64, "height": 64, "frame_count": 12, "step_count": 4, "scope": alone, "seed": 7}
    red = latents(generator, control, spec(prompt=RED, **values))
    box = latents(generator, control, spec(prompt=BOX, **values))
    both = spec(prompt=RED, segments=(PromptSegment(start_frame=6, prompt=BOX),), **values)
    story = latents(generator, control, both)
    to_red, to_box = ((story - other).flatten(1).norm(dim=1) for other in (red, box))
    assert (to_red[:4] < to_box[:4]).all(), f"{to_red} {to_box}"
    assert (to_box[8:] < to_red[8:]).all(), f"{to_red} {to_box}"
    text = generator.texts.encode(both, range(12))
    one = generator.texts.encode(spec(prompt=RED, **values), range(12))
    assert torch.equal(text[:, :6], one.expand(-1, 6, -1, -1))
    # A segment that says the same again is no segment: the very same video.
    same = spec(prompt=RED, segments=(PromptSegment(start_frame=6, prompt=RED, transition_frames=3),), **values)
    assert torch.equal(latents(generator, control, same), red)
