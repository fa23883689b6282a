"""The checker finds what it is there to find."""

from __future__ import annotations

import pytest

from tests.chaos.checker import Reference, check
from tests.chaos.history import GenerationLog, History
from vinf.v1 import generation_pb2

pytestmark = pytest.mark.fast

FRAMES = tuple(bytes([10 * index] * 12) for index in range(6))
CLIPS = ((0, 3), (3, 3))
REFERENCES = {"ball": Reference(FRAMES, CLIPS)}
SUCCEEDED = generation_pb2.GENERATION_STATE_SUCCEEDED


def generation(state=SUCCEEDED, reason="", clips=CLIPS):
    return generation_pb2.Generation(
        state=state,
        error=generation_pb2.GenerationError(reason=reason) if reason else None,
        clips=[generation_pb2.Clip(start_frame_index=start, frame_count=count) for start, count in clips],
    )


def history(*runs, final=None, follows=True, cancelled=False):
    """One generation and one reader, whose streams had the frames of each run; (start, [index or (index, data)])."""
    whole = History()
    log = GenerationLog("anna", "ball", submit_time=100, cancelled=cancelled, final=final or generation(), end_time=200)
    whole.created("g", log)
    reader = whole.reader("anna", "g", follows=follows)
    for start, items in runs:
        stream = reader.open(start)
        for item in items:
            index, data = item if isinstance(item, tuple) else (item, FRAMES[item])
            whole.received(stream, index, data)
        stream.ended = "broken"
    reader.streams[-1].ended, reader.streams[-1].end_next = "end", 6
    return whole


def counts(verdict):
    return verdict.lost, verdict.duplicated, verdict.reordered, verdict.corrupted


def test_a_clean_run_has_no_violation():
    verdict = check(history((0, range(6))), REFERENCES, [])
    assert (counts(verdict), verdict.frames, verdict.violations) == ((0, 0, 0, 0), 6, [])


def test_a_resumed_run_has_no_violation():
    verdict = check(history((0, [0, 1]), (2, []), (2, [2, 3, 4, 5])), REFERENCES, [])
    assert (counts(verdict), verdict.violations) == ((0, 0, 0, 0), [])


def test_a_lost_frame_in_the_middle():
    verdict = check(history((0, [0, 1, 3, 4, 5])), REFERENCES, [])
    assert counts(verdict) == (1, 0, 0, 0)
    assert verdict.violations == ["anna, g: lost frames [2]"]


def test_a_lost_frame_where_a_stream_was_resumed():
    assert counts(check(history((0, [0, 1]), (3, [3, 4, 5])), REFERENCES, [])) == (1, 0, 0, 0)


def test_a_lost_last_frame():
    verdict = check(history((0, [0, 1, 2, 3, 4])), REFERENCES, [])
    assert counts(verdict) == (1, 0, 0, 0)
    assert "ended at frame 6, but 5 was due" in verdict.violations[-1]


def test_no_frame_at_all_is_a_loss_of_all():
    assert counts(check(history((0, [])), REFERENCES, [])) == (6, 0, 0, 0)


def test_a_duplicated_frame():
    assert counts(check(history((0, [0, 1, 1, 2, 3, 4, 5])), REFERENCES, [])) == (0, 1, 0, 0)


def test_a_frame_repeated_by_a_resumed_stream():
    assert counts(check(history((0, [0, 1, 2]), (2, [2, 3, 4, 5])), REFERENCES, [])) == (0, 1, 0, 0)


def test_a_reordered_frame():
    assert counts(check(history((0, [0, 2, 1, 3, 4, 5])), REFERENCES, [])) == (0, 0, 1, 0)


def test_a_corrupted_frame_by_one_value():
    spoiled = bytes([20] * 11 + [21])
    verdict = check(history((0, [0, 1, (2, spoiled), 3, 4, 5])), REFERENCES, [])
    assert counts(verdict) == (0, 0, 0, 1)
    assert "by 1 of 255, allowed are 0" in verdict.violations[0]


def test_two_swapped_frames_under_right_indices():
    assert counts(check(history((0, [(0, FRAMES[1]), (1, FRAMES[0]), 2, 3, 4, 5])), REFERENCES, [])) == (0, 0, 0, 2)


def test_a_cut_frame():
    assert counts(check(history((0, [(0, FRAMES[0][:-1]), 1, 2, 3, 4, 5])), REFERENCES, [])) == (0, 0, 0, 1)


@pytest.mark.parametrize(("value", "corrupted"), [(21, 0), (22, 0), (23, 1), (17, 1)])
def test_other_clips_may_differ_by_two(value, corrupted):
    final = generation(clips=((0, 2), (2, 4)))
    verdict = check(history((0, [0, 1, (2, bytes([value] * 12)), 3, 4, 5]), final=final), REFERENCES, [])
    assert verdict.corrupted == corrupted
    assert verdict.unequal_within_tolerance == 1 - corrupted


def test_a_reader_that_hops_is_judged_stream_by_stream():
    hopping = history((4, [4]), (1, [1, 2, 3]), (0, range(6)), follows=False)
    assert check(hopping, REFERENCES, []).violations == []
    gap = history((4, [4]), (1, [1, 3]), (0, range(6)), follows=False)
    assert counts(check(gap, REFERENCES, [])) == (1, 0, 0, 0)


def test_a_frame_before_the_one_that_was_asked_for():
    verdict = check(history((3, [2, 3, 4, 5]), follows=False), REFERENCES, [])
    assert verdict.violations == ["anna, g: frames [2] were never asked for"]


@pytest.mark.parametrize(
    ("state", "reason", "cancelled", "losses", "is_allowed"),
    [
        (generation_pb2.GENERATION_STATE_CANCELLED, "CANCEL_REQUESTED", True, [], True),
        (generation_pb2.GENERATION_STATE_CANCELLED, "CANCEL_REQUESTED", False, [], False),
        (generation_pb2.GENERATION_STATE_CANCELLED, "LEASE_EXPIRED", False, [], False),
        (generation_pb2.GENERATION_STATE_FAILED, "WORKER_LOST", False, [110, 120, 130], True),
        (generation_pb2.GENERATION_STATE_FAILED, "WORKER_LOST", False, [50, 120, 130], False),
        (generation_pb2.GENERATION_STATE_FAILED, "FRAMES_MISSING", False, [110, 120, 130], False),
        (generation_pb2.GENERATION_STATE_RUNNING, "", False, [], False),
        (generation_pb2.GENERATION_STATE_PENDING, "", True, [], False),
        (SUCCEEDED, "", True, [], True),
    ],
)
def test_ends_that_the_faults_explain(state, reason, cancelled, losses, is_allowed):
    log = history((0, range(6)), final=generation(state, reason), cancelled=cancelled)
    verdict = check(log, REFERENCES, losses)
    assert (verdict.violations == []) == is_allowed


def test_only_an_abandoned_generation_may_lose_its_lease():
    log = history((0, []), final=generation(generation_pb2.GENERATION_STATE_CANCELLED, "LEASE_EXPIRED"))
    log.readers[0].streams[0].end_next = 0
    assert "which nobody asked for" in check(log, REFERENCES, []).violations[0]
    log.generations["g"].abandoned = True
    assert check(log, REFERENCES, []).violations == []


def test_a_generation_that_the_server_forgot():
    log = history((0, range(6)))
    log.generations["g"].final = None
    assert "does not know it" in check(log, REFERENCES, []).violations[0]
