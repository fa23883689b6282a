"""What commands that follow a generation share: words about pauses, words about coming back, and signals."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from vinf_client._errors import ServerNotReadyError, TransportError, VinfError
from vinf_client._types import Generation, Progress
from vinf_client.cli.common import run
from vinf_client.cli.exit_codes import EXIT_TERMINATED
from vinf_client.cli.interrupts import Interruptible, TerminatedError
from vinf_client.progress import Display

RESUME_ATTEMPTS = 100
"""Tries in a row of a command that follows a generation; about six minutes, which is long for a restart."""


class Follower:
    """Shows progress and pauses of one generation; knows that a server which said goodbye is restarting.

    `generation_id` may be set late: a pause before the server accepted has no id to name.
    """

    def __init__(self, display: Display, generation_id: str = "") -> None:
        self.generation_id = generation_id
        self._display = display
        self._restarting = False

    def update(self, progress: Progress) -> None:
        """Show how far the generation is."""
        self._restarting = False
        self._display.update(progress)

    def waiting(self, reason: VinfError) -> None:
        """Show why there is a pause before the next try."""
        self._restarting = self._restarting or reason.reason == "SERVER_DRAINING"
        if self._restarting and self.generation_id:
            self._display.note(
                "the server is restarting; the generation goes on when it is back; "
                f"resume later with: {download_command(self.generation_id)}"
            )
        else:
            self._display.waiting(reason)


def download_command(generation_id: str) -> str:
    """Return what brings the frames of a generation later."""
    return f"vinf download {generation_id} --wait"


@contextmanager
def come_back_later(generation_id: str) -> Iterator[None]:
    """Note on an error of the connection how to go on once the server is back."""
    try:
        yield
    except (TransportError, ServerNotReadyError) as error:
        error.add_note(f"generation {generation_id}: resume later with: {download_command(generation_id)}")
        raise


def run_interruptible(
    prog: str,
    work: Callable[[Interruptible[int | None]], int | None],
    *,
    names: Mapping[str, str] | None = None,
) -> int:
    """Run a command that a signal ends in good order; return its exit code."""
    try:
        return run(prog, Interruptible(work).run, names=names)
    except TerminatedError:
        print(f"{prog}: terminated", file=sys.stderr)
        return EXIT_TERMINATED


def state_text(generation: Generation) -> str:
    """Return the state, with the reason where the state does not say it."""
    reason = generation.state_reason
    shown = reason and reason not in ("QUEUED", "CANCEL_REQUESTED")
    return f"{generation.state.value} ({reason})" if shown else generation.state.value
