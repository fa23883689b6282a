"""Joint attention over clips: within the trained length the stock transformer, beyond it the same on every mesh."""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from torch.utils.flop_counter import FlopCounterMode

from tests.support.joint import (
    ALONE,
    TRAINED,
    WHOLE,
    Case,
    call_joint,
    call_stock,
    install_alone,
    received_bytes,
    run_transformer,
    sites_of,
    tiny_transformer,
)
from tests.support.ranks import RankPool
from vinf_core.context import joint_attention
from vinf_core.context.clip_context import ClipContext
from vinf_core.context.install import install
from vinf_core.context.layout import Layout
from vinf_core.context.partition import clips_of
from vinf_core.context.segments import Attended
from vinf_core.distributed.axes import Axes
from vinf_core.distributed.exchange import Exchange, FramePlan, UnderWay
from vinf_core.distributed.groups import Groups
from vinf_core.distributed.topology import Topology
from vinf_core.errors import ConfigError, OutOfStepError
from vinf_core.events import StageClock
from vinf_core.types import TemporalScope

LONG = 4 * TRAINED
SCOPE = TemporalScope(local_window_frames=4, global_frames=3)
BIASED = replace(SCOPE, phase_timestep=500, phase_bias=2.0)
FAMILIES = ["hunyuan", "easyanimate"]


def relative(got: torch.Tensor, expected: torch.Tensor) -> float:
    return float((got.double() - expected.double()).norm() / expected.double().norm())


@pytest.mark.process
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("counts", [[6], [4, 2], [1, 3, 2], [2, 0, 3, 1], [3]], ids=str)
def test_within_the_trained_length_it_is_the_stock_transformer(
    rank_pool: RankPool, family: str, counts: list[int]
) -> None:
    """Clips of any length, empty ones, two texts of which one is padded; whatever scope and bias are asked for."""
    for batch in (1, 2):
        case = Case(family, batch)
        parts = rank_pool.run(len(counts), call_joint, case, counts, replace(WHOLE, phase_bias=2.0))
        error = relative(torch.cat(parts, dim=2), call_stock(case, sum(counts)))
        assert error < 1e-10, f"batch of {batch}: relative L2 error {error:.1e}, expected below 1e-10"


@pytest.mark.process
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)], ids=str)
def test_within_the_trained_length_in_lower_precision(
    rank_pool: RankPool, family: str, dtype: torch.dtype, tolerance: float
) -> None:
    case = Case(family, 2, dtype)
    expected = call_stock(case, TRAINED)
    for counts, context in (([6], 1), ([2, 3, 1], 1), ([2, 4], 2)):
        parts = rank_pool.run(len(counts) * context, call_joint, case, counts, WHOLE, 500.0, context)
        got = torch.cat(parts[::context], dim=2)
        assert got.dtype == dtype
        assert relative(got, expected) < tolerance


@pytest.mark.process
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("timestep", [900.0, 100.0], ids=["global phase", "local phase"])
@pytest.mark.parametrize("scope", [SCOPE, BIASED], ids=["unbiased", "biased"])
def test_beyond_it_every_number_of_ranks_gives_the_same(
    rank_pool: RankPool, family: str, timestep: float, scope: TemporalScope
) -> None:
    case = Case(family, batch=2)
    expected = call_joint(*ALONE, case, [LONG], scope, timestep)
    for counts in ([12, 12], [5, 9, 10], [1, 20, 0, 3]):
        parts = rank_pool.run(len(counts), call_joint, case, counts, scope, timestep)
        error = relative(torch.cat(parts, dim=2), expected)
        assert error < 1e-12, f"clips {counts}: relative L2 error {error:.1e}, expected below 1e-12"


@pytest.mark.process
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rows", [3, 4, 1], ids=lambda rows: f"{rows} rows")
def test_every_mesh_gives_the_same(rank_pool: RankPool, family: str, rows: int) -> None:
    """Rows that cannot be divided evenly, and fewer of them than ranks."""
    case = Case(family, batch=2, rows=rows)
    short, long = call_stock(case, TRAINED), call_joint(*ALONE, case, [LONG], SCOPE)
    for counts, context in (([6], 2), ([6], 4), ([2, 4], 2), ([0, 6], 2)):
        parts = rank_pool.run(len(counts) * context, call_joint, case, counts, WHOLE, 500.0, context)
        for first in range(context):
            assert relative(torch.cat(parts[first::context], dim=2), short) < 1e-10, f"clips {counts} times {context}"
    for counts, context in (([24], 2), ([24], 4), ([13, 11], 2), ([24, 0], 2)):
        parts = rank_pool.run(len(counts) * context, call_joint, case, counts, SCOPE, 500.0, context)
        for first in range(context):
            assert relative(torch.cat(parts[first::context], dim=2), long) < 1e-12, f"clips {counts} times {context}"


@pytest.mark.process
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("without", ["remote", "text"])
def test_the_tests_above_would_see_a_segment_missing(rank_pool: RankPool, family: str, without: str) -> None:
    case = Case(family, batch=2)
    for counts, scope in (([4, 2], WHOLE), ([13, 11], SCOPE)):
        expected = call_joint(*ALONE, case, [sum(counts)], scope)
        parts = rank_pool.run(len(counts), call_joint, case, counts, scope, 500.0, 1, without)
        assert relative(torch.cat(parts, dim=2), expected) > 1e-4


@pytest.mark.process
def test_what_travels_in_a_call(rank_pool: RankPool) -> None:
    """Keys and values of the planned frames, and the text's parts with their log-sum-exp, once a layer."""
    case = Case(batch=2)
    counts = [20, 9, 11]
    layers, width, tokens, heads = 3, 48, 6, 4
    for rank, received in enumerate(rank_pool.run(3, received_bytes, case, counts, SCOPE)):
        plan = Layout.build(clips_of(counts), rank, SCOPE, position_count=TRAINED, joint=True).global_phase
        frames = sum(count for _, count in plan.frames.receives)
        of_video = frames * 2 * tokens * width
        of_text = 2 * 5 * (width + heads)
        assert received == layers * case.batch * case.dtype.itemsize * (of_video + of_text)


def noted_events(topology: Topology, groups: Groups, case: Case, counts: list[int], scope: TemporalScope) -> list[str]:
    """What a rank does in one call, in its order: ``post`` and ``wait`` of frames, ``attend`` to a segment."""
    clip = Axes.build(topology, groups, StageClock(topology.device)).clip
    begin, wait, attend = clip.begin, UnderWay.wait, joint_attention.attend
    events: list[str] = []

    def noted_begin(own: torch.Tensor, plan: FramePlan) -> UnderWay:
        under_way = begin(own, plan)
        events.append("post")
        return under_way

    def noted_wait(under_way: UnderWay) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        events.append("wait")
        return wait(under_way)

    def noted_attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> Attended:
        events.append("attend")
        return attend(query, key, value)

    with (
        mock.patch.object(clip, "begin", noted_begin),
        mock.patch.object(UnderWay, "wait", noted_wait),
        mock.patch.object(joint_attention, "attend", noted_attend),
    ):
        call_joint(topology, groups, case, counts, scope, clip_axis=clip)
    return events


@pytest.mark.process
@pytest.mark.parametrize("family", FAMILIES)
def test_what_lies_here_is_computed_while_the_rest_travels(rank_pool: RankPool, family: str) -> None:
    """In every layer the wait comes after all that needs nothing from other clips."""
    counts = [9, 7, 8]
    layers = 3
    for rank, events in enumerate(rank_pool.run(3, noted_events, Case(family), counts, SCOPE)):
        plan = Layout.build(clips_of(counts), rank, SCOPE, position_count=TRAINED, joint=True).global_phase
        # The text sees itself and its sample of the clip, too.
        here = sum(len(group.local) for group in plan.groups) + 1 + (plan.text is not None)
        remote = sum(len(group.remote) for group in plan.groups)
        assert remote, "nothing travels to this rank"
        assert events == layers * ["post", *here * ["attend"], "wait", *remote * ["attend"]], f"rank {rank}"


@pytest.mark.fast
@pytest.mark.parametrize("family", FAMILIES)
def test_the_scope_matters(family: str) -> None:
    case = Case(family)
    expected = call_joint(*ALONE, case, [LONG], BIASED)
    for other in (
        replace(BIASED, local_window_frames=8),
        replace(BIASED, global_frames=2),
        replace(BIASED, phase_bias=0.0),
        replace(BIASED, phase_timestep=0),
    ):
        assert relative(call_joint(*ALONE, case, [LONG], other), expected) > 1e-4, f"{other} changes nothing"


@pytest.mark.fast
@pytest.mark.parametrize("family", FAMILIES)
def test_the_table_is_of_the_trained_frames(family: str) -> None:
    """Whatever the clip: an index beyond them would be an error, not a position that was not trained."""
    case = Case(family)
    tables: list[torch.Tensor] = []
    for frames in (2, LONG):
        transformer = tiny_transformer(case)
        install_alone(transformer, [frames], SCOPE)
        rope = transformer.rope if family == "hunyuan" else transformer.rope_embedding
        rope.register_forward_hook(lambda module, args, table: tables.append(table))
        run_transformer(transformer, case, range(frames), 500.0)
    assert [len(table) for table in tables] == [TRAINED, TRAINED]
    assert torch.equal(*tables)


@pytest.mark.fast
@pytest.mark.parametrize("family", FAMILIES)
def test_operations_a_frame_do_not_grow_with_the_video(family: str) -> None:
    """On ``meta``, as full-size models are counted."""

    def operations(frames: int) -> int:
        case = Case(family, dtype=torch.float32)
        transformer = tiny_transformer(case)
        install_alone(transformer, [frames], SCOPE, "meta")
        with FlopCounterMode(display=False) as counter:
            run_transformer(transformer, case, range(frames), 500.0, "meta")
        return counter.get_total_flops()

    sooner, later = (operations(more * TRAINED) - operations(less * TRAINED) for less, more in ((6, 8), (16, 18)))
    assert sooner == pytest.approx(later, rel=0.01)


@pytest.mark.fast
def test_what_cannot_be_installed_is_named() -> None:
    context = ClipContext(Exchange(Topology.single(), None, StageClock(torch.device("cpu"))))
    transformer = tiny_transformer(Case())
    sites = sites_of(transformer)
    with pytest.raises(ConfigError, match="position_count: 0"):
        install(transformer, replace(sites, position_count=0), context)
    transformer.get_submodule(sites.joint_attentions[0]).set_processor(AttnProcessor2_0())
    with pytest.raises(ConfigError, match="attentions of AttnProcessor2_0, HunyuanVideoAttnProcessor2_0"):
        install(transformer, sites, context)
    transformer = tiny_transformer(Case())
    transformer.register_to_config(patch_size_t=2)
    with pytest.raises(ConfigError, match="patch_size_t: 2"):
        install(transformer, sites, context)
    transformer.register_to_config(patch_size_t=1, image_condition_type="token_replace")
    with pytest.raises(ConfigError, match="image_condition_type"):
        install(transformer, sites, context)
    three = ClipContext(
        context.exchange,
        Exchange(Topology(rank=0, world_size=3, device=torch.device("cpu")), None, context.exchange.clock),
    )
    with pytest.raises(ConfigError, match="3 does not divide the model's 4 attention heads"):
        install(tiny_transformer(Case()), sites, three)


@pytest.mark.fast
@pytest.mark.parametrize("family", FAMILIES)
def test_a_window_computed_alone_is_a_video_of_its_own(family: str) -> None:
    """As overlapping windows are, in the middle of a generation of something longer."""
    case = Case(family)
    transformer = tiny_transformer(case)
    context = install_alone(transformer, [LONG], SCOPE)
    window = Layout.build(clips_of([TRAINED]), 0, WHOLE, position_count=TRAINED, joint=context.layout.joint)
    with context.alone(window, 500.0):
        got = run_transformer(transformer, case, range(TRAINED), 500.0)
    assert relative(got, call_stock(case, TRAINED)) < 1e-10
    assert run_transformer(transformer, case, range(LONG), 500.0).shape[2] == LONG


@pytest.mark.fast
def test_a_call_with_other_frames_than_the_clips_is_out_of_step() -> None:
    case = Case()
    transformer = tiny_transformer(case)
    install_alone(transformer, [4], SCOPE)
    with pytest.raises(OutOfStepError, match="the transformer got 5, the clip has 4"):
        run_transformer(transformer, case, range(5), 500.0)
