"""Fixtures for all tests, and the rule that every test names its tier."""

from __future__ import annotations

import os
import shutil
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

TESTS = Path(__file__).parent
SHARING = {"cases", "client_cpp"}
"""Folders whose fixtures serve tests of several files."""
SHARED_FIXTURES = ("rank_pool", "real_server")
"""Fixtures that take long to set up and serve tests of several files."""

RUN_FOLDER = "TESTS_RUN_FOLDER"
"""Variable with a folder that all workers of a run share; whoever made it removes it."""

TIERS = {"fast", "process", "gpu", "soak"}


def pytest_configure(config: pytest.Config) -> None:
    """Before the workers are started."""
    if RUN_FOLDER not in os.environ:
        folder = os.environ[RUN_FOLDER] = tempfile.mkdtemp(prefix="vinf-tests-")
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


@pytest.hookimpl(tryfirst=True)  # before the workers look at the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Refuse tests without exactly one tier marker; where several workers share the work, say what stays together."""
    for item in items:
        tiers = TIERS & {marker.name for marker in item.iter_markers()}
        if len(tiers) != 1:
            raise pytest.UsageError(f"{item.nodeid}: needs exactly one of {sorted(TIERS)}, has {sorted(tiers)}")
        if config.pluginmanager.has_plugin("xdist"):
            item.add_marker(pytest.mark.xdist_group(_shares_with(item)))
    # What takes long first: the short ones fill the gaps at the end.
    items.sort(key=lambda item: item.get_closest_marker("fast") is not None)


def _shares_with(item: pytest.Item) -> str:
    """Tests of one group run in one worker, and share their servers and ranks."""
    for name in SHARED_FIXTURES:
        if name in getattr(item, "fixturenames", ()):
            return name
    folder = item.path.relative_to(TESTS).parts[0]
    return folder if folder in SHARING else str(item.path.relative_to(TESTS))


@pytest.fixture(scope="session")
def rank_pool() -> Iterator[object]:
    """Four Gloo ranks for the whole session; see tests/support/ranks.py."""
    from tests.support.ranks import RankPool

    pool = RankPool()
    yield pool
    pool.close()
