"""Readers of the benchmark keep their own beat: in step they would measure something else."""

from __future__ import annotations

import pytest

from benchmarks.serving.load import next_beat

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("now", "expected"),
    [(9.0, 11.0), (10.4, 11.0), (11.0, 12.0), (13.7, 14.0)],
    ids=["early", "in time", "a beat late", "three late"],
)
def test_who_falls_behind_leaves_beats_out_and_keeps_its_time(now, expected):
    assert next_beat(10.0, 1.0, now) == expected
