"""Fixtures for all tests, and the rule that every test names its tier."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before torch is imported: spinning OpenMP threads of several ranks slow each other down many times on few cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

# There pytest shows every difference in full, and aligning the text of two short videos takes it ten minutes. The line
# verbosity_assertions in pyproject.toml keeps -v from the same.
for name in ("CI", "BUILD_NUMBER"):
    os.environ.pop(name, None)
# No settings of whoever runs the tests: a folder that is not there.
os.environ["XDG_CONFIG_HOME"] = str(Path(tempfile.gettempdir(), "vinf-tests-have-no-settings"))

TIERS = {"fast", "process", "gpu", "soak"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse tests without exactly one tier marker."""
    for item in items:
        tiers = TIERS & {marker.name for marker in item.iter_markers()}
        if len(tiers) != 1:
            raise pytest.UsageError(f"{item.nodeid}: needs exactly one of {sorted(TIERS)}, has {sorted(tiers)}")


@pytest.fixture(scope="session")
def rank_pool() -> Iterator[object]:
    """Four Gloo ranks for the whole session; see tests/support/ranks.py."""
    from tests.support.ranks import RankPool

    pool = RankPool()
    yield pool
    pool.close()
