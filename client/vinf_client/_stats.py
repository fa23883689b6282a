"""What a puller did so far."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PullerStats:
    """Counts of one puller, since it was made.

    Attributes:
        frames_received: whole, with the right checksum.
        frames_taken: of these, given out by `next` or `latest`, each counted once.
        frames_dropped: of these, never given out, because a newer one was there.
        frames_skipped: never sent: a newer one was there, or the server keeps them no longer.
        bytes_received: of the frames received, as they travel.
        reconnects: calls that failed and were made again.
        waits: times that `next` had to wait for its frame.
        waited_seconds: how long all of these took.
    """

    frames_received: int = 0
    frames_taken: int = 0
    frames_dropped: int = 0
    frames_skipped: int = 0
    bytes_received: int = 0
    reconnects: int = 0
    waits: int = 0
    waited_seconds: float = 0.0
