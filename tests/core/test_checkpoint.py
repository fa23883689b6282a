"""Records of frames, what they hold, and resuming from them on the same and on any other partition."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.engine import Recorder, make_generator, spec
from tests.support.ranks import RankPool
from tests.support.sprites import load_sprites
from tests.support.store import Store
from tests.support.tiny import SOLVERS
from vinf_core.context.partition import clips_of
from vinf_core.diffusion.cadence import CHECKPOINT_SHARE, Checkpointer
from vinf_core.diffusion.checkpoint import Checkpoint, capture, from_records, restore, to_records
from vinf_core.diffusion.schedule import make_scheduler
from vinf_core.distributed.groups import Groups
from vinf_core.distributed.topology import Topology
from vinf_core.errors import CheckpointError
from vinf_core.events import Pixels, StageClock, Verdict
from vinf_core.types import Clip, GenerationSpec, Solver, Stage

ALONE = (Topology.single(), Groups(control=None, data=None))


def checkpoint(frames: int = 3, dtype: torch.dtype = torch.float32) -> Checkpoint:
    generator = torch.Generator().manual_seed(1)
    latents, output = torch.randn(2, frames, 4, 2, 2, dtype=dtype, generator=generator)
    return Checkpoint(completed_steps=7, start_frame=5, latents=latents, model_outputs=(output,), lower_order_nums=2)


@pytest.mark.fast
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_records_hold_everything_to_the_last_bit(dtype: torch.dtype) -> None:
    saved = checkpoint(dtype=dtype)
    records = list(to_records(saved))
    read = from_records(records, completed_steps=7, frames=range(5, 8))
    assert (read.completed_steps, read.start_frame, read.lower_order_nums) == (7, 5, 2)
    assert torch.equal(read.latents, saved.latents)
    assert read.latents.dtype == dtype
    assert torch.equal(read.model_outputs[0], saved.model_outputs[0])
    part = from_records(records[1:2], completed_steps=7, frames=range(6, 7))
    assert torch.equal(part.latents, saved.latents[1:2])


@pytest.mark.fast
def test_records_say_which_frames_are_key_frames_where_there_are_any() -> None:
    flags = (True, False, True)
    records = list(to_records(replace(checkpoint(), are_key_frames=flags)))
    assert from_records(records, completed_steps=7, frames=range(5, 8)).are_key_frames == flags
    without = list(to_records(checkpoint()))
    assert from_records(without, completed_steps=7, frames=range(5, 8)).are_key_frames is None
    assert all(b"is_key_frame" not in record for record in without), "records without them are as they always were"
    with pytest.raises(CheckpointError, match="do not fit together"):
        from_records([records[0], *without[1:]], completed_steps=7, frames=range(5, 8))


@pytest.mark.fast
def test_every_damaged_byte_is_noticed() -> None:
    (record,) = to_records(checkpoint(frames=1))
    for position in range(len(record)):
        damaged = bytearray(record)
        damaged[position] ^= 0x10
        with pytest.raises(CheckpointError, match="damaged"):
            from_records([bytes(damaged)], completed_steps=7, frames=range(5, 6))
    for length in (0, 3, 8, len(record) - 1):
        with pytest.raises(CheckpointError):
            from_records([record[:length]], completed_steps=7, frames=range(5, 6))


@pytest.mark.fast
def test_other_frames_and_steps_are_refused() -> None:
    records = list(to_records(checkpoint()))
    for wrong, step, frames in (
        (records, 8, range(5, 8)),
        (records, 7, range(4, 7)),
        (records[:2], 7, range(5, 8)),
        (records[::-1], 7, range(5, 8)),
        ([], 7, range(5, 6)),
    ):
        with pytest.raises(CheckpointError, match="asked for"):
            from_records(wrong, completed_steps=step, frames=frames)


@pytest.mark.fast
def test_a_checkpoint_of_another_solver_is_refused() -> None:
    config = load_sprites().scheduler_config
    for solver, outputs in ((Solver.DDIM, 1), (Solver.DPM_SOLVER_PP_2M, 0)):
        scheduler = make_scheduler(solver, config, 9)
        latents = torch.zeros(1, 4, 2, 2)
        wrong = Checkpoint(completed_steps=7, start_frame=0, latents=latents, model_outputs=(latents,) * outputs)
        with pytest.raises(CheckpointError, match="model_outputs"):
            restore(scheduler, wrong, torch.device("cpu"))


@pytest.mark.fast
def test_what_is_captured_stays_as_it_was() -> None:
    """The loop goes on while a checkpoint is written: nothing in it may be changed in place."""
    scheduler = make_scheduler(Solver.DPM_SOLVER_PP_2M, load_sprites().scheduler_config, 6)
    latents = torch.randn(3, 4, 2, 2)
    kept = []
    for index, timestep in enumerate(scheduler.timesteps):
        latents = scheduler.step(latents * 0.5, timestep, latents, return_dict=False)[0]
        taken = capture(scheduler, latents, completed_steps=index + 1, start_frame=0, count=3)
        kept.append((taken, list(to_records(taken))))
    assert all(list(to_records(taken)) == records for taken, records in kept)


def agree_to_all(ready: bool = True, **_: Any) -> Verdict:
    return Verdict.GO if ready else Verdict.WAIT


@pytest.mark.fast
@pytest.mark.parametrize("earlier", [0.0, 7.0])
def test_checkpoints_take_a_bounded_share_of_the_time(earlier: float) -> None:
    """Over any number of steps, whatever earlier generations spent: the clock's own numbers stay within the share."""
    clock = StageClock(torch.device("cpu"))
    clock.seconds |= {Stage.CHECKPOINT: earlier, Stage.DENOISE: 3.0}
    store = Store()
    checkpointer = Checkpointer(store, clock, Clip(0, 1))
    scheduler = make_scheduler(Solver.DDIM, load_sprites().scheduler_config, 1000)
    taken = []
    for done in range(1, 1000):
        clock.seconds[Stage.DENOISE] += 0.1
        clock.seconds[Stage.COMMUNICATE] += 0.1
        if checkpointer.can_save(done):
            checkpointer.save(scheduler, torch.zeros(1, 4, 2, 2), done, agree_to_all)
            taken.append(done)
            clock.seconds[Stage.CHECKPOINT] = earlier + 0.03 * len(taken)
            store.seconds = 0.02 * len(taken)  # of a thread that sends
        assert clock.seconds[Stage.CHECKPOINT] + store.seconds - earlier <= max(
            0.05, CHECKPOINT_SHARE * 0.2 * done + 1e-9
        )
    assert taken[0] == 1, "nothing is known about the cost of the first one"
    assert len(taken) == pytest.approx(1000 * 0.2 * CHECKPOINT_SHARE / 0.05, abs=1)
    store.has_room = False
    clock.seconds[Stage.DENOISE] += 1000
    assert not checkpointer.can_save(1000), "one is still on its way"
    store.has_room = True
    assert checkpointer.can_save(1000)
    assert not checkpointer.can_save(taken[-1]), "nothing new to save"


def run_with_checkpoints(
    topology: Topology,
    groups: Groups,
    what: GenerationSpec,
    counts: list[int],
    dtype: torch.dtype,
    records: dict[int, dict[int, bytes]] | None = None,
    resume_step: int = 0,
) -> tuple[torch.Tensor, dict[int, dict[int, bytes]], list[int]]:
    """Final latents of this rank's clip, its records by step, and the steps it went through."""
    generator, control, _ = make_generator(topology, groups, dtype)
    layout = generator.plan(what, clips_of(counts))
    store, observer = Store(records or {}), Recorder()

    def agree(ready: bool = True, *, save: bool = False, **more: Any) -> Verdict:
        # Every step is saved, however much that costs here.
        return control.agree(ready, save=observer.stages[-1][1] > resume_step, **more)

    latents = generator.latents("g", what, layout, observer, agree, checkpoints=store, resume_step=resume_step)
    steps = [step for stage, step in observer.stages if stage is Stage.DENOISE]
    return latents.clone(), store.records, steps


@pytest.mark.fast
@pytest.mark.parametrize("solver", SOLVERS)
def test_resuming_on_the_same_partition_changes_no_bit(solver: Solver) -> None:
    what = spec(solver=solver, step_count=5)
    expected, records, _ = run_with_checkpoints(*ALONE, what, [11], torch.float32)
    assert sorted(records) == [1, 2, 3, 4, 5]
    for step in records:
        got, _, steps = run_with_checkpoints(*ALONE, what, [11], torch.float32, records, step)
        assert torch.equal(got, expected), f"resumed after step {step}"
        assert steps == list(range(step, 6))


@pytest.mark.process
@pytest.mark.parametrize(
    ("solver", "dtype", "tolerance"),
    [
        (Solver.DDIM, torch.float64, 1e-12),
        (Solver.DDIM, torch.float32, 1e-4),
        (Solver.DPM_SOLVER_PP_2M, torch.float32, 1e-4),
    ],
    ids=["ddim-float64", "ddim-float32", "dpm++-float32"],
)
def test_resuming_on_any_number_of_ranks(
    rank_pool: RankPool, solver: Solver, dtype: torch.dtype, tolerance: float
) -> None:
    """Two ranks began; the same two, one, three or four (one of them without frames) go on."""
    what = spec(frame_count=19, solver=solver, step_count=4)
    begun = rank_pool.run(2, run_with_checkpoints, what, [10, 9], dtype)
    expected = torch.cat([latents for latents, _, _ in begun])
    records = {step: begun[0][1][step] | begun[1][1][step] for step in begun[0][1]}
    for counts in ([10, 9], [19], [5, 8, 6], [9, 0, 3, 7]):
        for step in (1, 3, 4):
            parts = rank_pool.run(len(counts), run_with_checkpoints, what, counts, dtype, records, step)
            got = torch.cat([latents for latents, _, _ in parts])
            error = float((got - expected).norm() / expected.norm())
            assert error < tolerance, f"clips {counts} after step {step}: relative L2 error {error:.1e}"
            if counts == [10, 9] or step == 4:
                assert torch.equal(got, expected), f"clips {counts} after step {step}: bits differ"


@pytest.mark.process
def test_what_only_needs_decoding_gives_the_same_frames_on_any_number_of_ranks(rank_pool: RankPool) -> None:
    """All latents are stored before the first frame leaves, so a frame that was delivered never changes."""
    what = spec(frame_count=19, step_count=2)
    begun = rank_pool.run(2, whole_video_with_checkpoints, what, {}, 0)
    expected = {index: pixels for frames, _, _ in begun for index, pixels in frames.items()}
    assert all(stored == [2] for _, _, stored in begun), "frames left before the last checkpoint was stored"
    records = {2: begun[0][1][2] | begun[1][1][2]}
    assert sorted(records[2]) == sorted(expected) == list(range(19))
    for world_size in (1, 2, 3):
        parts = rank_pool.run(world_size, whole_video_with_checkpoints, what, records, 2)
        got = {index: pixels for frames, _, _ in parts for index, pixels in frames.items()}
        assert got.keys() == expected.keys()
        for index, pixels in expected.items():
            np.testing.assert_array_equal(got[index], pixels, err_msg=f"frame {index} on {world_size} ranks")


def whole_video_with_checkpoints(
    topology: Topology, groups: Groups, what: GenerationSpec, records: dict[int, dict[int, bytes]], resume_step: int
) -> tuple[dict[int, Pixels], dict[int, dict[int, bytes]], list[int]]:
    """Frames and records of this rank, and the steps stored when its first frame could leave."""
    generator, control, _ = make_generator(topology, groups, torch.float32)
    recorder, store = Recorder(), Store(dict(records))
    stored: list[int] = []

    def open_sink(generation_id: str) -> Recorder:
        stored.extend(step for step in store.records if step == what.step_count)
        return recorder

    generator.generate(
        "g",
        what,
        observer=recorder,
        open_sink=open_sink,
        agree=control.agree,
        checkpoints=store,
        resume_step=resume_step,
    )
    return recorder.frames, store.records, stored


@pytest.mark.process
def test_the_ranks_save_where_all_can(rank_pool: RankPool) -> None:
    assert rank_pool.run(3, vote_to_save, [True, True, True]) == [Verdict.SAVE] * 3
    assert rank_pool.run(3, vote_to_save, [True, False, True]) == [Verdict.GO] * 3


def vote_to_save(topology: Topology, groups: Groups, votes: list[bool]) -> Verdict:
    _, control, _ = make_generator(topology, groups)
    return control.agree(save=votes[topology.rank])
