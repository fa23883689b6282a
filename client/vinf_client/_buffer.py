"""Frames between the network and a loop that shows or records them. Knows neither threads nor event loops."""

from collections import deque
from dataclasses import replace

from vinf_client._errors import RpcTimeoutError
from vinf_client._frame import Frame
from vinf_client._stats import PullerStats


class FrameBuffer:
    """A few frames that are ready, and what there is to say once no more will come.

    Args:
        capacity: frames that lie ready at most.
        only_latest: whether a new frame takes the place of older ones that nobody took.
        start: the frame that is expected first.
    """

    def __init__(self, capacity: int, *, only_latest: bool, start: int = 0) -> None:
        self._capacity = capacity
        self._only_latest = only_latest
        self._ready: deque[Frame] = deque()
        self._shown: Frame | None = None
        self._error: BaseException | None = None
        self._finished = False
        self._stats = PullerStats()
        self._expected = start

    @property
    def stats(self) -> PullerStats:
        """What happened so far."""
        return self._stats

    @property
    def has_room(self) -> bool:
        """Whether a frame may be put."""
        return self._only_latest or len(self._ready) < self._capacity

    @property
    def is_due(self) -> bool:
        """Whether `take` has an answer."""
        return bool(self._ready) or self._finished

    @property
    def ended(self) -> bool:
        """Whether every frame was taken and no more will come."""
        return self._finished and not self._ready

    def put(self, frame: Frame) -> None:
        """Add the newest frame."""
        self._count(
            frames_received=1, bytes_received=len(frame.data), frames_skipped=max(0, frame.index - self._expected)
        )
        self._expected = frame.index + 1
        if self._only_latest:
            self._drop(len(self._ready))
        self._ready.append(frame)

    def reconnected(self) -> None:
        """Note that a call failed and is made again."""
        self._count(reconnects=1)

    def waited(self, seconds: float) -> None:
        """Note how long somebody waited for a frame."""
        self._count(waits=1, waited_seconds=seconds)

    def finish(self, error: BaseException | None) -> None:
        """Note that no more will come, and why."""
        self._finished, self._error = True, error

    def latest(self) -> Frame | None:
        """Take all that are ready and return the newest; the one before where there is none, None before the first.

        Raises:
            VinfError: why no more will come, once there is no new one.
        """
        if self._ready:
            self._drop(len(self._ready) - 1)
            self._shown = self._ready.pop()
            self._count(frames_taken=1)
        elif self._error is not None:
            raise self._error
        return self._shown

    def take(self) -> Frame | None:
        """Return the next frame; None when the video is over. Call it when `is_due`.

        Raises:
            VinfError: why no more will come.
        """
        if self._ready:
            self._shown = self._ready.popleft()
            self._count(frames_taken=1)
            return self._shown
        if self._error is not None:
            raise self._error
        return None

    def _drop(self, count: int) -> None:
        for _ in range(count):
            self._ready.popleft()
        self._count(frames_dropped=count)

    def _count(self, **more: float) -> None:
        before = self._stats
        self._stats = replace(before, **{name: getattr(before, name) + count for name, count in more.items()})


def no_frame_within(timeout: float | None) -> RpcTimeoutError:
    """Return the error of who waited too long for the next frame."""
    return RpcTimeoutError(f"no frame came within {timeout or 0:g} s", code="DEADLINE_EXCEEDED")
