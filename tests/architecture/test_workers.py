"""Where several workers share the tests, those that share a server stay together."""

from __future__ import annotations

import os

import pytest

pytestmark = pytest.mark.fast


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="the tests run in one process")
def test_the_workers_know_the_groups(request: pytest.FixtureRequest) -> None:
    """Versions of pytest and pytest-xdist that do not fit leave them out silently, and every fixture is made twice."""
    assert request.node.nodeid.endswith("@architecture/test_workers.py"), request.node.nodeid
