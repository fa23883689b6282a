"""Commands and fronts with scripted ranks."""

import pytest

from tests.server.conftest import QUICK_AGENT
from tests.server.conftest import front_process as front_process
from vinf_client.cli import main


@pytest.fixture
def vinf():
    """Run a command in this process; returns the exit code."""

    def call(*arguments):
        try:
            return main(list(arguments))
        except SystemExit as exit_:
            return exit_.code

    return call


@pytest.fixture
def scripted(front_process):
    """Start a front with scripted ranks; returns it and its address."""

    def start(*arguments):
        front = front_process(*QUICK_AGENT, *arguments)
        return front, front.wait_ready()["listen"]

    return start
