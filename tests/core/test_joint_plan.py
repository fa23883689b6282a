"""Which latent frames see which in joint attention, at what position and with what bias; and the sums by hand."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from vinf_core.context.clip_context import ClipContext
from vinf_core.context.joint_attention import ForwardPass, Heads, JointAttention, TokenGrid
from vinf_core.context.joint_plan import JointPlan, KeySegment, Source
from vinf_core.context.layout import Layout
from vinf_core.context.partition import clips_of
from vinf_core.context.pieces import Piece, global_frame_indices
from vinf_core.context.positions import STRIDE, PositionWindow, windowed
from vinf_core.distributed.exchange import Exchange
from vinf_core.distributed.topology import Topology
from vinf_core.errors import ConfigError
from vinf_core.events import StageClock
from vinf_core.types import TemporalScope

pytestmark = pytest.mark.fast

TRAINED = 6
SCOPE = TemporalScope(local_window_frames=6, global_frames=3)
BIASED = replace(SCOPE, phase_bias=2.0, phase_timestep=500)
SCOPES = [
    SCOPE,
    BIASED,
    TemporalScope(local_window_frames=0, global_frames=0),
    TemporalScope(local_window_frames=40, global_frames=0, phase_bias=1.0),
    TemporalScope(local_window_frames=2, global_frames=300),
    TemporalScope(local_window_frames=200, global_frames=8),
]
Seen = tuple[int, frozenset[tuple[int, int, float]]]
"""A query's position, and frame, position and bias of every key it sees."""


def layout_of(counts: list[int], scope: TemporalScope = SCOPE, rank: int = 0, trained: int = TRAINED) -> Layout:
    return Layout.build(clips_of(counts), rank, scope, position_count=trained, joint=True)


def plans_of(layout: Layout) -> tuple[JointPlan, JointPlan]:
    assert isinstance(layout.global_phase, JointPlan)
    assert isinstance(layout.local_phase, JointPlan)
    return layout.global_phase, layout.local_phase


def frames_of(segment: KeySegment, plan: JointPlan, start: int) -> list[int]:
    """Frames of the video that a segment has."""
    stop = start + plan.own_count
    stored = {
        Source.OWN: range(start, stop),
        Source.BEFORE: [frame for frame in plan.frames.frames if frame < start],
        Source.AFTER: [frame for frame in plan.frames.frames if frame >= stop],
    }
    return [frame for source, part in segment.parts for frame in stored[source][part]]


def sights(plan: JointPlan, start: int) -> Iterator[tuple[int, Seen]]:
    """What every query of a clip sees."""
    for group in plan.groups:
        keys = [
            key
            for segment in (*group.local, *group.remote)
            for key in zip(
                frames_of(segment, plan, start),
                segment.positions.tolist(),
                [segment.bias] * segment.frame_count,
                strict=True,
            )
        ]
        assert len({frame for frame, _, _ in keys}) == len(keys) == group.key_frame_count, "no key counts twice"
        for query, position in zip(range(*group.queries.indices(10**6)), group.positions.tolist(), strict=True):
            yield start + query, (position, frozenset(keys))


def sights_of_all(counts: list[int], scope: TemporalScope, phase: int) -> dict[int, Seen]:
    found: dict[int, Seen] = {}
    for rank, clip in enumerate(clips_of(counts)):
        found |= sights(plans_of(layout_of(counts, scope, rank))[phase], clip.start)
    return found


@pytest.mark.parametrize("scope", SCOPES, ids=range(len(SCOPES)))
@pytest.mark.parametrize("phase", [0, 1], ids=["global", "local"])
def test_what_a_frame_sees_does_not_depend_on_the_clips(scope: TemporalScope, phase: int) -> None:
    numbers = random.Random(7)
    for frame_count in (3, 6, 7, 24, 50):
        expected = sights_of_all([frame_count], scope, phase)
        assert sorted(expected) == list(range(frame_count))
        for ranks in (2, 3, 5):
            edges = sorted(numbers.choices(range(frame_count + 1), k=ranks - 1))
            counts = [stop - start for start, stop in zip([0, *edges], [*edges, frame_count], strict=True)]
            assert sights_of_all(counts, scope, phase) == expected, f"clips {counts}"


@pytest.mark.parametrize("trained", [1, 2, 5, 6, 13, 25, 33])
def test_no_position_beyond_those_of_training(trained: int) -> None:
    for scope in SCOPES:
        for frame_count in (1, trained, trained + 1, 4 * trained, 16 * trained + 3):
            for plan in plans_of(layout_of([frame_count], scope, trained=trained)):
                segments = [segment for group in plan.groups for segment in (*group.local, *group.remote)]
                assert plan.text is not None
                for positions in [
                    plan.text.positions,
                    *(s.positions for s in segments),
                    *(g.positions for g in plan.groups),
                ]:
                    assert positions.min() >= 0
                    assert positions.max() < trained


def test_a_position_beyond_them_is_never_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    positions = PositionWindow.positions
    monkeypatch.setattr(PositionWindow, "positions", lambda window, frames: positions(window, frames) + 1)
    with pytest.raises(AssertionError, match=r"positions .* are not in \[0, 5\]"):
        layout_of([24])


def test_a_scene_of_the_trained_length_is_seen_whole_and_without_bias() -> None:
    for frame_count in (1, 4, TRAINED):
        for scope in (*SCOPES, BIASED):
            (group,) = plans_of(layout_of([frame_count], scope))[1].groups
            (segment,) = group.local
            assert segment.positions.tolist() == group.positions.tolist() == list(range(frame_count))
            assert segment.bias == 0
            assert not group.remote


def test_keys_a_query_do_not_grow_with_the_video() -> None:
    def most(frame_count: int, scope: TemporalScope) -> int:
        return max(group.key_frame_count for plan in plans_of(layout_of([frame_count], scope)) for group in plan.groups)

    for scope in (SCOPE, BIASED):
        assert most(4 * TRAINED, scope) <= most(16 * TRAINED, scope) == most(1000 * TRAINED, scope) == STRIDE + 6 + 3


def test_what_travels_does_not_grow_with_the_video() -> None:
    received = [
        sum(count for _, count in plans_of(layout_of([length] * 3, rank=1))[0].frames.receives)
        for length in (8, 80, 800)
    ]
    assert max(received) <= 6 + 2 * STRIDE + 3
    plan = plans_of(layout_of([80] * 3, rank=1))[0]
    assert len(plan.outbox) < 20, "a clip packs what others need, not itself"


@pytest.mark.parametrize("phase", [0, 1], ids=["global", "local"])
def test_the_bias_is_for_other_frames(phase: int) -> None:
    """Of the favoured kind alone, never a query's own frame; the text lies in the first segment, which has none."""
    sampled = set(global_frame_indices(range(24), 3))
    unbiased = sights_of_all([24], SCOPE, phase)
    for frame, (position, keys) in sights_of_all([10, 14], BIASED, phase).items():
        assert (position, {key[:2] for key in keys}) == (unbiased[frame][0], {key[:2] for key in unbiased[frame][1]})
        favoured = {seen for seen, _, bias in keys if bias}
        assert frame not in favoured
        assert all(bias in (0, 2.0) for _, _, bias in keys)
        if phase == 0:
            assert favoured == sampled - {frame}
        else:
            assert favoured >= {other for other in range(max(0, frame - 3), min(24, frame + 4)) if other != frame}
    for plan in plans_of(layout_of([24], BIASED)):
        for group in plan.groups:
            assert group.local[0].bias == 0


def test_negligible_context_is_never_left_out() -> None:
    strong = replace(BIASED, phase_bias=10.0)
    skipping = Layout.build(clips_of([24]), 0, strong, skip_negligible=True, position_count=TRAINED, joint=True)
    for plan, expected in zip(plans_of(skipping), plans_of(layout_of([24], strong)), strict=True):
        assert dict(sights(plan, 0)) == dict(sights(expected, 0))


def test_the_text_sees_an_even_sample_of_the_whole_video() -> None:
    found: dict[int, int] = {}
    for rank, clip in enumerate(clips_of([10, 0, 14])):
        plan = plans_of(layout_of([10, 0, 14], rank=rank))[0]
        if plan.text is None:
            assert not clip.count
            continue
        found |= dict(zip(frames_of(plan.text, plan, clip.start), plan.text.positions.tolist(), strict=True))
    assert found == {2: 0, 6: 1, 10: 2, 14: 3, 18: 4, 22: 5}


def test_convolutions_cost_nothing() -> None:
    layout = layout_of([10, 14])
    assert not layout.convolution_plan.sends
    assert not layout.convolution_plan.receives


def test_other_global_frames_can_be_chosen() -> None:
    layout = layout_of([24]).with_global_frames(((1, 22),))
    for _, (_, keys) in sights(plans_of(layout)[0], 0):
        assert {1, 22} <= {frame for frame, _, _ in keys}


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="scenes: 2 of them"):
        Layout.build(clips_of([24]), 0, SCOPE, scenes=(range(10), range(10, 24)), position_count=6, joint=True)
    with pytest.raises(ConfigError, match="position_count: 0 is less than 1"):
        Layout.build(clips_of([24]), 0, SCOPE, joint=True)


def by_hand(
    video: Heads, text: Heads, table: torch.Tensor, texts: list[int], scope: TemporalScope, timestep: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Query frame by query frame, one dense softmax each: what joint attention means."""
    frame_count, tokens = video.query.shape[1:3]
    scene = range(frame_count)
    sampled = global_frame_indices(scene, scope.global_frames) if scope.global_frames else ()
    bias = scope.phase_bias if frame_count > TRAINED else 0.0
    padding = torch.zeros(len(texts), 1, 1, text.key.shape[1], dtype=torch.float64)
    for entry, count in enumerate(texts):
        padding[entry, ..., count:] = -torch.inf

    def turned(states: torch.Tensor, position: int) -> torch.Tensor:
        pairs = torch.view_as_complex(states.unflatten(-1, (-1, 2))) * table[position][:, None]
        return torch.view_as_real(pairs).flatten(-2)

    def softmax(query: torch.Tensor, frames: dict[int, tuple[int, float]]) -> torch.Tensor:
        keys = [turned(video.key[:, frame], position) for frame, (position, _) in frames.items()]
        logits = torch.einsum("bqhd,bkhd->bhqk", query, torch.cat([text.key, *keys], dim=1)) * query.shape[-1] ** -0.5
        shift = torch.tensor([0.0] * text.key.shape[1] + [b for _, b in frames.values() for _ in range(tokens)])
        logits[..., : text.key.shape[1]] += padding
        values = torch.cat([text.value, *(video.value[:, frame] for frame in frames)], dim=1)
        return torch.einsum("bhqk,bkhd->bqhd", (logits + shift).softmax(-1), values)

    out = torch.zeros_like(video.query)
    for piece, window in windowed(Piece(0, scene, scene), scope, frame_count, TRAINED):
        run = scene if frame_count <= TRAINED else piece.within(scope.half_window)
        seen = sorted({*run, *sampled})
        where = dict(zip(seen, window.positions(torch.tensor(seen)).tolist(), strict=True))
        for frame in piece.frames:
            favoured = set(sampled if timestep > scope.phase_timestep else run) - {frame}
            keys = {key: (where[key], bias if key in favoured else 0.0) for key in seen}
            out[:, frame] = softmax(turned(video.query[:, frame], where[frame]), keys)
    for_text = {frame: (place, 0.0) for place, frame in enumerate(global_frame_indices(scene, TRAINED))}
    return out, softmax(text.query, for_text)


@pytest.mark.parametrize("timestep", [900.0, 100.0])
@pytest.mark.parametrize("scope", SCOPES, ids=range(len(SCOPES)))
@pytest.mark.parametrize("frame_count", [4, 24])
def test_attention_by_hand(scope: TemporalScope, timestep: float, frame_count: int) -> None:
    generator = torch.Generator().manual_seed(11)

    def heads(*shape: int) -> Heads:
        return Heads(*(torch.randn(3, 2, *shape, 2, 8, dtype=torch.float64, generator=generator) * 2).unbind())

    video, text = heads(frame_count, 4), heads(5)
    angles = torch.rand(TRAINED, 4, 4, dtype=torch.float64, generator=generator) * 6
    table = torch.polar(torch.ones_like(angles), angles)
    context = ClipContext(Exchange(Topology.single(), None, StageClock(torch.device("cpu"))))
    context.slices.frame_bytes = 3 * 2 * 4 * 2 * 8 * 8  # three frames are rotated at once
    context.begin_generation(layout_of([frame_count], scope))
    context.begin_step(timestep)
    joint = JointAttention(context)
    joint.begin(ForwardPass(TokenGrid(frame_count, 2, 2), (5, 2)))
    flat = Heads(*(states.flatten(1, 2) for states in (video.query, video.key, video.value)))
    got_video, got_text = joint(flat, text, table)
    expected_video, expected_text = by_hand(video, text, table, [5, 2], scope, timestep)
    assert (got_video - expected_video.flatten(1, 2).flatten(2)).abs().max() < 1e-12
    assert (got_text - expected_text.flatten(2)).abs().max() < 1e-12
