"""Commands, agreement and cancellation over real ranks: one persistent group serves generation after generation."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from unittest.mock import patch

import numpy as np
import pytest
import torch

from tests.support.engine import Recorder, make_generator, spec, whole_video
from tests.support.ranks import RankPool
from tests.support.store import Store
from tests.support.tiny import tiny_model
from vinf_core.context.layout import Layout
from vinf_core.context.partition import partition
from vinf_core.decode.buffers import HostBuffers
from vinf_core.distributed.control import ControlPlane
from vinf_core.distributed.exchange import Exchange
from vinf_core.distributed.groups import Groups
from vinf_core.distributed.topology import Topology
from vinf_core.engine import generator as generator_module
from vinf_core.engine.commands import Command, Generate, Stop
from vinf_core.engine.generator import Generator
from vinf_core.engine.memory import MemoryModel
from vinf_core.engine.worker import Outcome, Worker
from vinf_core.errors import GenerationCancelledError, InvalidSpecError, OutOfStepError, OutputInvalidError
from vinf_core.events import Boundary, Pixels, StageClock, StopWish, Verdict
from vinf_core.types import GenerationSpec, Stage, TemporalScope

pytestmark = pytest.mark.process

ALONE = (Topology.single(), Groups(control=None, data=None))


@dataclass
class Script(Recorder):
    """Rank 0's outside world: orders from a list, one cancel at a given step."""

    orders: list[Command] = field(default_factory=list)
    cancel_at: dict[str, tuple[Stage, int]] = field(default_factory=dict)
    outcomes: list[tuple[str, Outcome, str]] = field(default_factory=list)
    steps_of: dict[str, int] = field(default_factory=dict)
    stage: Stage = Stage.TEXT
    wish: StopWish = StopWish.CANCEL

    def next_order(self, timeout: float) -> Command | None:
        return self.orders.pop(0)

    def stop_wish(self, generation_id: str) -> StopWish:
        if generation_id not in self.cancel_at:
            return StopWish.NONE
        stage, step = self.cancel_at[generation_id]
        due = self.stage == stage and self.steps_of.get(generation_id, 0) >= step
        return self.wish if due else StopWish.NONE

    def progress(self, generation_id: str, stage: Stage, completed_steps: int, step_seconds: float) -> None:
        self.stage = stage
        self.steps_of[generation_id] = completed_steps

    def finished(
        self, generation_id: str, outcome: Outcome, reason: str, message: str, peak_memory_bytes: list[int]
    ) -> None:
        assert all(peak > 0 for peak in peak_memory_bytes)
        self.outcomes.append((generation_id, outcome, reason))


def serve(
    topology: Topology, groups: Groups, orders: list[Command], cancel_at: dict[str, tuple[Stage, int]]
) -> tuple[dict[str, dict[int, Pixels]], list[tuple[str, Outcome, str]], dict[str, int]]:
    generator, control, _ = make_generator(topology, groups, torch.float32)
    sinks: dict[str, Recorder] = {}
    script = Script(orders=list(orders), cancel_at=cancel_at) if topology.is_coordinator else None

    def open_sink(generation_id: str) -> Recorder:
        return sinks.setdefault(generation_id, Recorder())

    Worker(generator, control, open_sink, script).serve()
    frames = {name: sink.frames for name, sink in sinks.items()}
    return frames, script.outcomes if script else [], script.steps_of if script else {}


@pytest.mark.parametrize("world_size", [1, 3])
def test_a_cancelled_generation_leaves_no_trace(rank_pool: RankPool, world_size: int) -> None:
    first, second, third = spec(seed=1), spec(seed=2, step_count=20), spec(seed=3, frame_count=13)
    orders: list[Command] = [Generate("a", first), Generate("b", second), Generate("c", third), Stop()]
    results = rank_pool.run(world_size, serve, orders, {"b": (Stage.DENOISE, 2)})
    _, outcomes, steps = results[0]
    assert outcomes == [
        ("a", Outcome.SUCCEEDED, ""),
        ("b", Outcome.CANCELLED, ""),
        ("c", Outcome.SUCCEEDED, ""),
    ]
    assert steps["b"] == 2, "the cancel takes effect at the very next step boundary"
    frames = {i: pixels for part, _, _ in results for i, pixels in part.get("c", {}).items()}
    fresh = rank_pool.run(world_size, whole_video, third)
    expected = {i: pixels for part in fresh for i, pixels in part.items()}
    assert frames.keys() == expected.keys()
    for index, pixels in expected.items():
        np.testing.assert_array_equal(frames[index], pixels, err_msg=f"frame {index} differs from a fresh engine's")


def test_cancel_while_decoding(rank_pool: RankPool) -> None:
    orders: list[Command] = [Generate("a", spec(frame_count=30)), Stop()]
    results = rank_pool.run(2, serve, orders, {"a": (Stage.DECODE, 0)})
    assert results[0][1] == [("a", Outcome.CANCELLED, "")]


def test_a_specification_the_model_cannot_make_fails_alone(rank_pool: RankPool) -> None:
    orders: list[Command] = [Generate("wide", spec(width=4096)), Generate("ok", spec()), Stop()]
    results = rank_pool.run(2, serve, orders, {})
    assert results[0][1] == [("wide", Outcome.FAILED, "INVALID_FIELD"), ("ok", Outcome.SUCCEEDED, "")]


@pytest.mark.parametrize("counts", [(5, 5), (4, 4, 3), (12, -1)])
def test_clips_that_do_not_fit_fail_alone(rank_pool: RankPool, counts: tuple[int, ...]) -> None:
    orders: list[Command] = [Generate("odd", spec(), counts), Generate("ok", spec(), (7, 4)), Stop()]
    results = rank_pool.run(2, serve, orders, {})
    assert results[0][1] == [("odd", Outcome.FAILED, "INVALID_FIELD"), ("ok", Outcome.SUCCEEDED, "")]


def vote(topology: Topology, groups: Groups, votes: list[str]) -> str:
    mine = votes[topology.rank]
    try:
        stop = StopWish.CANCEL if mine == "cancel" else StopWish.NONE
        return "go" if ControlPlane(topology, groups.control).agree(mine != "wait", stop=stop) else "wait"
    except GenerationCancelledError:
        return "cancel"


@pytest.mark.parametrize(
    ("votes", "verdict"),
    [
        (["go", "go", "go"], "go"),
        (["go", "wait", "go"], "wait"),
        (["wait", "go", "cancel"], "cancel"),
    ],
)
def test_the_worst_vote_wins_on_every_rank(rank_pool: RankPool, votes: list[str], verdict: str) -> None:
    assert rank_pool.run(3, vote, votes) == [verdict] * 3


class Slow(Recorder):
    """A sink whose taker is slow: every question is answered twice with "not yet"."""

    questions = 0

    def wait_for_room(self, frames: int, timeout: float) -> bool:
        self.questions += 1
        return self.questions % 3 == 0

    def wait_for_delivery(self, timeout: float) -> bool:
        return self.wait_for_room(0, timeout) and self.delivered


def slow_video(topology: Topology, groups: Groups, what: GenerationSpec) -> tuple[list[int], int]:
    generator, control, _ = make_generator(topology, groups, torch.float32)
    sink = Slow() if topology.rank == 1 else Recorder()
    generator.generate("g", what, observer=Recorder(), open_sink=lambda _: sink, agree=control.agree)
    return sorted(sink.frames), control.round_count


def test_ranks_wait_together_for_a_slow_taker(rank_pool: RankPool) -> None:
    """Nobody blocks outside an agreement: the rank that waits says so, and all ranks go round again."""
    results = rank_pool.run(3, slow_video, spec(frame_count=30))
    assert sorted(frame for frames, _ in results for frame in frames) == list(range(30))
    steps, end, decode_rounds, delivery = 3, 1, 3, 1
    assert [rounds for _, rounds in results] == [steps + end + 3 * (decode_rounds + delivery)] * 3


def video_ahead(topology: Topology, groups: Groups, what: GenerationSpec) -> dict[int, Pixels]:
    """As a GPU does it: one slice under way while the next is decoded; rank 1's taker is slow."""
    generator, control, _ = make_generator(topology, groups, torch.float32)
    sink = Slow() if topology.rank == 1 else Recorder()
    with patch.object(generator_module, "HostBuffers", partial(HostBuffers, ahead=1)):
        generator.generate("g", what, observer=Recorder(), open_sink=lambda _: sink, agree=control.agree)
    return sink.frames


def test_ranks_that_decode_ahead_deliver_the_same_frames(rank_pool: RankPool) -> None:
    what = spec(frame_count=30)
    expected, got = (
        {index: pixels for part in rank_pool.run(3, function, what) for index, pixels in part.items()}
        for function in (whole_video, video_ahead)
    )
    assert sorted(got) == sorted(expected) == list(range(30))
    for index, pixels in expected.items():
        np.testing.assert_array_equal(got[index], pixels)


def numbered(topology: Topology, groups: Groups) -> str:
    control = ControlPlane(topology, groups.control)
    if not topology.is_coordinator:
        control._number = 1  # as if a command had been missed
    try:
        control.tick("hello" if topology.is_coordinator else None)
    except OutOfStepError as error:
        return str(error)
    return "fine"


def test_a_rank_notices_a_missed_command(rank_pool: RankPool) -> None:
    answers = rank_pool.run(2, numbered)
    assert answers[0] == "fine"
    assert "command 1 arrived where 2 was due" in answers[1]


def test_only_rank_0_commands() -> None:
    control = ControlPlane(Topology(rank=1, world_size=2, device=torch.device("cpu")), None)
    with pytest.raises(OutOfStepError, match="only rank 0"):
        control.tick(Stop())


def test_nan_latents_fail_the_generation_on_every_rank(rank_pool: RankPool) -> None:
    outcomes = rank_pool.run(2, broken_video, spec())
    assert outcomes == [("OutputInvalidError", [])] * 2, "what is not finite was saved"


def broken_video(topology: Topology, groups: Groups, what: GenerationSpec) -> tuple[str, list[int]]:
    """The error's name, and the steps that this rank saved."""
    generator, control, _ = make_generator(topology, groups, torch.float32)
    if topology.rank == 1:
        next(generator.model.unet.parameters()).fill_(float("nan"))
    layout = generator.plan(what)
    store = Store()
    try:
        generator.latents("g", what, layout, Recorder(), control.agree, checkpoints=store)
    except Exception as error:
        return type(error).__name__, sorted(store.records)
    return "fine", sorted(store.records)


@pytest.mark.parametrize("at", [0, 1, 2, 4], ids=lambda at: f"step {at}")
def test_a_suspended_generation_goes_on_to_the_same_bits(rank_pool: RankPool, at: int) -> None:
    what = spec(step_count=4)
    results = rank_pool.run(2, suspended, what, (Stage.DECODE, 4) if at == 4 else (Stage.DENOISE, at))
    frames: dict[int, Pixels] = {}
    expected: dict[int, Pixels] = {}
    for rank, (parts, outcomes, steps) in enumerate(results):
        assert outcomes == ([("g", Outcome.CANCELLED, ""), ("g", Outcome.SUCCEEDED, "")] if rank == 0 else [])
        assert max(steps, default=0) == at, "the newest step is saved, and none is before the first"
        frames |= parts
    for part in rank_pool.run(2, whole_video, what):
        expected |= part
    assert frames.keys() == expected.keys()
    for index, pixels in expected.items():
        np.testing.assert_array_equal(frames[index], pixels)


def suspended(
    topology: Topology, groups: Groups, what: GenerationSpec, at: tuple[Stage, int]
) -> tuple[dict[int, Pixels], list[tuple[str, Outcome, str]], list[int]]:
    """Suspend a generation and go on with it: frames, outcomes, and the steps that were saved when it stopped."""
    generator, control, _ = make_generator(topology, groups, torch.float32)
    store = Store()
    script = Script(cancel_at={"g": at}, wish=StopWish.SUSPEND) if topology.is_coordinator else None
    sinks: list[Recorder] = []

    def open_sink(generation_id: str) -> Recorder:
        sinks.append(Recorder())
        return sinks[-1]

    def serve(*orders: Command) -> None:
        if script:
            script.orders = [*orders, Stop()]
        Worker(generator, control, open_sink, script, open_checkpoints=lambda _: store).serve()

    serve(Generate("g", what))
    saved = sorted(store.records)
    if script:
        script.cancel_at = {}
    serve(Generate("g", what, resume_step=saved[-1] if saved else 0))
    return sinks[-1].frames, script.outcomes if script else [], saved


def test_a_wish_to_suspend_waits_for_a_boundary_where_it_means_something() -> None:
    control = ControlPlane(*ALONE[:1], None)
    assert control.agree(boundary=Boundary.STEP, stop=StopWish.SUSPEND) is Verdict.SUSPEND
    assert control.agree(boundary=Boundary.SAVING, stop=StopWish.SUSPEND) is Verdict.GO
    assert control.agree(False, boundary=Boundary.SAVING, stop=StopWish.SUSPEND) is Verdict.WAIT
    with pytest.raises(GenerationCancelledError):
        control.agree(boundary=Boundary.DECODE, stop=StopWish.SUSPEND)
    for boundary in Boundary:
        with pytest.raises(GenerationCancelledError):
            control.agree(boundary=boundary, stop=StopWish.CANCEL)
        with pytest.raises(OutputInvalidError):
            control.agree(boundary=boundary, stop=StopWish.CANCEL, invalid=True)


def test_texts_at_once_are_those_the_generation_began_with() -> None:
    what = spec()
    generator, _, _ = make_generator(*ALONE)
    layout = generator.plan(what)
    roomy = MemoryModel(
        budget_bytes=10**12,
        fixed_bytes=0,
        bytes_per_frame_pixel=1.0,
        decode_fixed_bytes=0,
        decode_bytes_per_pixel=0,
        largest_clip_share=1.0,
    )
    for memory, chosen in ((None, 2), (roomy, 2), (replace(roomy, budget_bytes=1), 1)):
        generator.memory = memory
        assert generator.texts_at_once(what, layout) == chosen
        assert [generator.texts_at_once(what, layout, asked) for asked in (1, 2)] == [1, 2]
    # A whole window of 16 is computed, however short the clips are.
    windows = replace(
        what, frame_count=16, scope=TemporalScope(local_window_frames=0, global_frames=0, overlap_frames=4)
    )
    clips = Layout.build(partition(16, [1] * 4), 0, windows.scope)
    for frames, chosen in ((32, 2), (31, 1)):
        generator.memory = replace(roomy, budget_bytes=frames * windows.width * windows.height)
        assert generator.texts_at_once(windows, clips) == chosen
    unguided = spec(guidance_scale=1.0)
    assert generator.texts_at_once(unguided, layout, 2) == 1
    clock = StageClock(ALONE[0].device)
    topology = Topology.single()
    exact = Generator(tiny_model(), topology, Exchange(topology, None, clock), clock, deterministic=True)
    for memory in (None, roomy):
        exact.memory = memory
        assert exact.texts_at_once(what, layout) == 1, "a measurement must not decide about bits"


@pytest.mark.parametrize(
    ("field", "name", "value"),
    [
        ("texts_at_once", "texts_at_once", 3),
        ("first_frame", "first_frame_index", 12),
        ("first_frame", "first_frame_index", -1),
        ("resume_step", "resume_step", 4),
        ("preview_interval", "preview_interval_steps", 1001),
    ],
)
def test_commands_that_make_no_sense_are_refused(field: str, name: str, value: int) -> None:
    with pytest.raises(InvalidSpecError, match=f"{name}: {value} is not in"):
        Generate("g", spec(), **{field: value})
