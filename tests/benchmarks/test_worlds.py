"""Ranks that are started for a measurement, and how they end."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.settings import Settings
from benchmarks.worlds import RankFailedError, run_ranks

pytestmark = pytest.mark.process


def test_a_rank_that_fails_is_reported_with_its_traceback() -> None:
    with pytest.raises(RankFailedError, match=r"rank 1 of 2 failed(.|\n)*ZeroDivisionError"):
        run_ranks(2, Settings(device="cpu"), fail_on_rank_1)


def fail_on_rank_1(topology: Any, groups: Any, settings: Settings) -> int:
    if topology.rank == 1:
        raise ZeroDivisionError
    return settings.threads
