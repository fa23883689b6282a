"""The slope of a soak is the slope of its samples after the warm-up."""

from __future__ import annotations

import asyncio

import pytest

from tests.chaos.front import ChaosFront
from tests.chaos.soak import READERS, SoakReport, soak


def report(minutes=60):
    """The front grows by 5 MB an hour, rank 0 stays, and both grow fast in the first tenth of the time."""
    made = SoakReport(["front", "rank 0"])
    for second in range(0, minutes * 60 + 1, 10):
        early = -400_000_000 if second < minutes * 6 else 0
        made.seconds.append(float(second))
        made.resident_bytes.append([50_000_000 + int(5e6 * second / 3600) + early, 480_000_000 + early])
    return made


@pytest.mark.fast
def test_slope_after_the_warm_up():
    assert report().slopes() == {"front": pytest.approx(5, rel=1e-3), "rank 0": pytest.approx(0, abs=1e-3)}
    assert "+5.00 MB an hour" in str(report())


@pytest.mark.fast
def test_too_few_samples_are_no_slope():
    made = SoakReport(["front"], seconds=[1.0], resident_bytes=[[1]])
    with pytest.raises(ValueError, match="1 samples are too few"):
        made.slopes()


@pytest.mark.fast
def test_csv(tmp_path):
    made = report(minutes=1)
    made.write_csv(tmp_path / "soak.csv")
    lines = (tmp_path / "soak.csv").read_text().splitlines()
    assert lines[0] == "seconds,front resident bytes,rank 0 resident bytes"
    assert lines[-1] == "60.0,50083333,480000000"
    assert len(lines) == 8


@pytest.fixture
def sprites_front():
    front = ChaosFront("--device", "cpu", "--ranks", "2")
    front.start()
    yield front
    front.end_everything()
    front.remove()


@pytest.mark.process
def test_a_soak_of_seconds(sprites_front):
    async def run():
        await sprites_front.wait_ready()
        return await soak(sprites_front, seconds=4, specs=("short",), sample_s=0.5)

    made = asyncio.run(run())
    assert made.names == ["front", "cached frames", "rank 0", "rank 1"]
    assert made.failed == 0
    assert made.frames == made.generations * READERS * 8 > 0
    assert all(size > 10_000_000 for front, _, *ranks in made.resident_bytes for size in (front, *ranks))
    assert set(made.slopes()) == set(made.names)
