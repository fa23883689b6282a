"""Each frame once, in order, with the pixels of an undisturbed run; every generation ended as it should."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from tests.chaos.history import GenerationLog, History, ReaderLog, Receipt
from vinf.v1 import generation_pb2

TOLERANCE = 2
"""Of 255, where the clips were cut otherwise than in the reference."""

LOSSES_THAT_EXPLAIN = 3
"""Group losses without progress after which WORKER_LOST is the documented end."""

SUCCEEDED = generation_pb2.GENERATION_STATE_SUCCEEDED
FAILED = generation_pb2.GENERATION_STATE_FAILED
CANCELLED = generation_pb2.GENERATION_STATE_CANCELLED


@dataclass(frozen=True, slots=True)
class Reference:
    """An undisturbed run of one specification."""

    frames: tuple[bytes, ...]
    clips: tuple[tuple[int, int], ...]
    """Start and length of each rank's clip."""


@dataclass(slots=True)
class Verdict:
    """What the checker counted, and every violation in words."""

    frames: int = 0
    """Frames received by all readers together."""

    lost: int = 0
    duplicated: int = 0
    reordered: int = 0
    corrupted: int = 0
    unequal_within_tolerance: int = 0
    violations: list[str] = field(default_factory=list)


def clips_of(generation: generation_pb2.Generation) -> tuple[tuple[int, int], ...]:
    """Start and length of each rank's clip."""
    return tuple((clip.start_frame_index, clip.frame_count) for clip in generation.clips)


def check(history: History, references: dict[str, Reference], loss_times: list[float]) -> Verdict:
    """Compare all that was received with the references; ``loss_times`` says when the group was made to die."""
    verdict = Verdict(violations=list(history.complaints))
    for generation_id, generation in history.generations.items():
        problem = _wrong_end(generation, loss_times)
        if problem:
            verdict.violations.append(f"generation {generation_id} ({generation.spec}): {problem}")
    for reader in history.readers:
        generation = history.generations[reader.generation_id]
        _check_order(reader, generation, len(references[generation.spec].frames), verdict)
        _check_pixels(reader, generation, references[generation.spec], history.contents, verdict)
    return verdict


def _wrong_end(generation: GenerationLog, loss_times: list[float]) -> str:
    """Why this is no end that the plan of faults explains; empty when it is."""
    final = generation.final
    if final is None:
        return "the server does not know it any more"
    state = generation_pb2.GenerationState.Name(final.state)
    if final.state == SUCCEEDED:
        return ""
    if final.state == CANCELLED:
        asked = generation.cancelled and final.error.reason == "CANCEL_REQUESTED"
        ran_out = generation.abandoned and final.error.reason == "LEASE_EXPIRED"
        return "" if asked or ran_out else f"{state} / {final.error.reason}, which nobody asked for"
    if final.state == FAILED:
        losses = sum(generation.submit_time <= at <= generation.end_time for at in loss_times)
        if final.error.reason == "WORKER_LOST" and losses >= LOSSES_THAT_EXPLAIN:
            return ""
        return f"{state} / {final.error.reason} ({final.error.message}) after {losses} losses of the group"
    return f"{state}, it never ended"


def _check_order(reader: ReaderLog, generation: GenerationLog, frame_count: int, verdict: Verdict) -> None:
    complete = generation.final is not None and generation.final.state == SUCCEEDED
    if reader.follows:
        runs = [(0, [r for stream in reader.streams for r in stream.receipts], complete)]
    else:
        runs = [(stream.start, stream.receipts, complete and stream.ended == "end") for stream in reader.streams]
    for start, receipts, to_the_end in runs:
        _check_run(f"{reader.client}, {reader.generation_id}", start, receipts, frame_count, to_the_end, verdict)
    for stream in reader.streams:
        following = stream.receipts[-1].index + 1 if stream.receipts else stream.start
        if stream.ended == "end" and stream.end_next != following:
            verdict.violations.append(
                f"{reader.client}, {reader.generation_id}: the stream ended at frame {stream.end_next}, "
                f"but {following} was due"
            )


def _check_run(
    who: str, start: int, receipts: list[Receipt], frame_count: int, to_the_end: bool, verdict: Verdict
) -> None:
    """One run of frames that should be dense from ``start``."""
    indices = [receipt.index for receipt in receipts]
    firsts = list(dict.fromkeys(indices))
    stop = frame_count if to_the_end else max(indices, default=start - 1) + 1
    lost = sorted(set(range(start, stop)) - set(indices))
    strange = sorted(index for index in firsts if not start <= index < frame_count)
    duplicated = len(indices) - len(firsts)
    reordered = sum(after < before for before, after in pairwise(firsts))
    verdict.frames += len(indices)
    verdict.lost += len(lost)
    verdict.duplicated += duplicated
    verdict.reordered += reordered
    if lost:
        verdict.violations.append(f"{who}: lost frames {lost[:10]}")
    if duplicated:
        verdict.violations.append(f"{who}: {duplicated} frames came twice")
    if reordered:
        verdict.violations.append(f"{who}: {reordered} frames came out of order")
    if strange:
        verdict.violations.append(f"{who}: frames {strange[:10]} were never asked for")


def _check_pixels(
    reader: ReaderLog, generation: GenerationLog, reference: Reference, contents: dict[str, bytes], verdict: Verdict
) -> None:
    final = generation.final
    same_clips = final is None or not final.clips or clips_of(final) == reference.clips
    allowed = 0 if same_clips else TOLERANCE
    for receipt in (receipt for stream in reader.streams for receipt in stream.receipts):
        if not 0 <= receipt.index < len(reference.frames):
            continue
        difference = max_difference(contents[receipt.digest], reference.frames[receipt.index])
        if difference > allowed:
            verdict.corrupted += 1
            verdict.violations.append(
                f"{reader.client}, {reader.generation_id}: frame {receipt.index} differs from the undisturbed run "
                f"by {difference} of 255, allowed are {allowed}"
            )
        elif difference:
            verdict.unequal_within_tolerance += 1


def max_difference(data: bytes, reference: bytes) -> int:
    """The largest difference of two pixels' values; 255 when the sizes differ."""
    if data == reference:
        return 0
    if len(data) != len(reference):
        return 255
    a, b = (np.frombuffer(part, np.uint8).astype(np.int16) for part in (data, reference))
    return int(np.abs(a - b).max())
