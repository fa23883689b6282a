"""A generation in the hands of its owner."""

import os
from collections.abc import Callable, Generator
from contextlib import closing, nullcontext
from pathlib import Path

from vinf_client import _flows
from vinf_client._errors import VinfError, naming
from vinf_client._format import FormatLike
from vinf_client._frame import Frame
from vinf_client._frames import read_frames
from vinf_client._puller import FramePuller
from vinf_client._retry import Persistence
from vinf_client._saving import Saving
from vinf_client._trace import Trace
from vinf_client._transport import Transport
from vinf_client._types import Generation, Progress, Update
from vinf_client._wanted import Wanted
from vinf_client._watch import ProgressThread, Watch, WatchCursor

PREFETCH = 8  # frames
CAPACITY = 4  # frames

OnProgress = Callable[[Progress], None]
OnWait = Callable[[VinfError], None]


class GenerationHandle:
    """One generation on a server. It goes on whether or not anybody holds a handle; `cancel` ends it.

    >>> from vinf_client import Client
    >>> from vinf_client.testing import FakeServer
    >>> with FakeServer() as server, Client(server.address) as client:
    ...     handle = client.submit("a red ball", frames=24)
    ...     handle.wait().state.value
    ...     [frame.index for frame in handle.frames(20)]
    ...     next(handle.frames(format="jpeg")).to_pil().size
    ...     handle.delete()
    'succeeded'
    [20, 21, 22, 23]
    (64, 64)
    """

    def __init__(
        self,
        transport: Transport,
        generation: Generation,
        *,
        persistence: Persistence,
        request_id: str = "",
        deduplicated: bool = False,
    ) -> None:
        self._transport = transport
        self._persistence = persistence
        self.generation = generation
        """The newest snapshot this handle has seen."""

        self.request_id = request_id
        """That of the call that created it; empty where another client did."""

        self.deduplicated = deduplicated
        """Whether an earlier call with the same request id had created it, so that nothing new was started."""

    def __repr__(self) -> str:
        return f"GenerationHandle({self.generation_id!r}, {self.generation.state.value})"

    @property
    def generation_id(self) -> str:
        """What `Client.attach` takes."""
        return self.generation.generation_id

    @property
    def progress(self) -> Progress:
        """How far it has come; asks the server."""
        return self.refresh().progress

    def refresh(self) -> Generation:
        """Ask the server for a new snapshot."""
        return self._note(_flows.get(self.generation_id))

    def frames(
        self,
        start: int = 0,
        *,
        stop: int | None = None,
        format: FormatLike = None,
        latency: str = "all",
        prefetch: int = PREFETCH,
        on_wait: OnWait | None = None,
    ) -> Generator[Frame, None, None]:
        """Iterate over the frames as they are made.

        Leaving early closes the stream and leaves the generation alone. Broken streams are resumed.

        Args:
            start: first frame wanted.
            stop: first frame not wanted; None: to the end.
            format: "rgb24" (the default), "rgba8", "bgra8", "nv12", "jpeg", "png" or a `FrameFormat`.
            latency: "all" brings every frame in order; "low" always the newest, leaving out those that were made while
                the caller was busy, so that none is ever old.
            prefetch: frames that are read ahead in a thread; 0: none. With "low" nothing is read ahead.
            on_wait: called with each break before the next try, perhaps from that thread.

        Raises:
            GenerationFailedError, GenerationCancelledError: the generation ended before its last frame.
            FrameEvictedError: `start` is no longer kept.
            InvalidRequestError: an argument cannot work.
            TransportError: the connection broke more often in a row than the client allows.
        """
        wanted = self._wanted(start, stop, format, on_wait).check(latency, prefetch=prefetch)
        return read_frames(self._transport, wanted, prefetch=prefetch)

    def pull(
        self,
        start: int = 0,
        *,
        stop: int | None = None,
        format: FormatLike = None,
        latency: str = "all",
        capacity: int = CAPACITY,
        on_wait: OnWait | None = None,
    ) -> FramePuller:
        """Return a puller: for a loop that must not wait for frames (`latest`) or that sets the pace (`next`).

        Arguments and errors are those of `frames`.

        Args:
            capacity: frames that lie ready at most; the server is asked for no more until one is taken.
        """
        wanted = self._wanted(start, stop, format, on_wait).check(latency, capacity=capacity)
        return FramePuller(self._transport, wanted, capacity=max(1, capacity))

    def watch(self, on_progress: OnProgress) -> ProgressThread:
        """Call back with each change from a thread of the SDK, until the result is closed."""
        return ProgressThread(
            self._watch(WatchCursor(self.generation_id, backoff=self._persistence.backoff)), on_progress
        )

    def updates(
        self, after_sequence: int = 0, *, previews: bool = False, on_wait: OnWait | None = None
    ) -> Generator[Update, None, None]:
        """Iterate over snapshots and changes of state until it has ended; resumes across restarts of the server.

        Args:
            after_sequence: events up to this one are left out; 0 brings all since it was created.
            previews: whether to bring previews, too; there are some when they were asked for with `preview_every`.
            on_wait: called with each break before the next try.

        Raises:
            GenerationNotFoundError: it was deleted.
            TransportError: the stream broke more often in a row than the client allows.
        """
        cursor = WatchCursor(
            self.generation_id,
            backoff=self._persistence.backoff,
            after_sequence=after_sequence,
            previews=previews,
            on_wait=on_wait,
        )
        with naming(self.request_id):
            for update in self._watch(cursor):
                self.generation = update.generation
                yield update

    def wait(self, timeout: float | None = None) -> Generation:
        """Wait until it succeeded, and return the last snapshot.

        Raises:
            GenerationFailedError, GenerationCancelledError: it ended otherwise.
            RpcTimeoutError: `timeout` seconds went by; the generation goes on.
        """
        if timeout is None:
            for _ in self.updates():
                pass
        else:
            self._note(_flows.poll_end(self.generation_id, timeout))
        with naming(self.request_id):
            return _flows.succeeded(self.generation)

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        start: int = 0,
        stop: int | None = None,
        on_progress: OnProgress | None = None,
        on_wait: OnWait | None = None,
    ) -> Path:
        """Write the frames to a file as they are made, and return its path: .mp4, .npy, .gif, or a folder of PNG files.

        Whoever finds the file finds it whole: it gets its name when it is.

        Args:
            path: where; the ending decides the form, a name without one is a folder.
            start: first frame written.
            stop: first frame not written; None: to the end.
            on_progress: called with each change of progress, from a thread of the SDK.
            on_wait: called with each break of the connection before the next try.

        Raises:
            OutputError: it cannot be written there.
            GenerationFailedError, GenerationCancelledError: the generation ended before its last frame.
        """
        saving = Saving.prepare(path, self.generation.spec, start=start, stop=stop)
        with closing(self.watch(on_progress)) if on_progress is not None else nullcontext():
            return write_frames(saving, self.frames(start, stop=stop, on_wait=on_wait))

    def cancel(self, *, timeout: float | None = None) -> Generation:
        """Ask for its end, and return the snapshot after; a finished generation stays as it is."""
        return self._note(_flows.cancel(self.generation_id, timeout))

    def trace(self) -> Trace:
        """Return what the server and every rank did for it, and when; as far as it is known while it is made."""
        with naming(self.request_id):
            return self._transport.run(_flows.trace(self.generation_id))

    def delete(self) -> None:
        """Have the server forget it and remove its frames.

        Raises:
            WrongStateError: it has not ended; cancel it first.
            GenerationNotFoundError: it is deleted already.
        """
        with naming(self.request_id):
            self._transport.run(_flows.delete(self.generation_id))

    def _note(self, flow: _flows.Flow[Generation]) -> Generation:
        with naming(self.request_id):
            self.generation = self._transport.run(flow)
        return self.generation

    def _wanted(self, start: int, stop: int | None, format: FormatLike, on_wait: OnWait | None) -> Wanted:
        return Wanted(
            generation_id=self.generation_id,
            start=start,
            stop=stop,
            output=format,
            request_id=self.request_id,
            persistence=self._persistence,
            on_wait=on_wait,
        )

    def _watch(self, cursor: WatchCursor) -> Watch:
        return Watch(self._transport, cursor, stall_timeout=self._persistence.stall_timeout)


def write_frames(saving: Saving, frames: Generator[Frame, None, None]) -> Path:
    """Write every frame, and return where."""
    with closing(frames), saving.open() as writer:
        for frame in frames:
            writer.write(frame)
    return saving.path
