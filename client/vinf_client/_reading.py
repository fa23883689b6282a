"""Where a reader of frames stands: what it asks for next, and what it makes of the answers. It knows no transport.

Frames are dense from 0 and their bytes never change, so an index is all there is to remember: a broken stream is
opened again at the first frame that was not complete, and so is one that brought a frame whose checksum is wrong. The
caller sees no frame twice, and no gap but where the server says that it keeps frames no longer.
"""

from google.protobuf.duration_pb2 import Duration

from vinf.v1 import frame_pb2, generation_pb2
from vinf.v1 import video_generation_service_pb2 as service_pb
from vinf_client import _convert
from vinf_client._assembler import DamagedFrameError, FrameAssembler
from vinf_client._errors import (
    FrameEvictedError,
    ProtocolError,
    RpcTimeoutError,
    ServerDrainingError,
    ServerNotReadyError,
    StallError,
    TransportError,
    VinfError,
)
from vinf_client._format import write_format
from vinf_client._frame import Frame
from vinf_client._retry import Attempts
from vinf_client._translate import failure_error
from vinf_client._types import GenerationState
from vinf_client._wanted import Wanted

_DRAINING = "SERVER_DRAINING"
_SERVERS_KEEPALIVE = 10.0  # seconds
_SLICE_BYTES = 4 * 1024 * 1024 - 64 * 1024  # of a pull: what any gRPC client takes in one message
_LONGEST_WAIT = 10.0  # seconds of one pull
_BATCH = 16  # frames of one pull


class Cursor:
    """What reading by a stream and by pulls have in common."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._attempts = Attempts(wanted.persistence.backoff, on_failure=wanted.on_wait)
        self.following = wanted.start
        """The frame that is due."""

        self.ended = wanted.stop is not None and wanted.stop <= wanted.start
        self._output = frame_pb2.OutputFormat()
        write_format(self._output, wanted.output)

    def failed(self, error: VinfError) -> float:
        """Return the seconds to wait before the next try, or raise `error`; call it while `error` is handled."""
        if isinstance(error, FrameEvictedError) and self.following > self._wanted.start:
            # Somebody who reads on stands before a gap, as he would in a stream that had not broken.
            first = error.first_available_frame_index
            if first is not None and first > self.following:
                self.following = first
                return 0.0
        if isinstance(error, RpcTimeoutError):
            return self._attempts.failed(stalled(self._wanted.stall_timeout))
        if not isinstance(error, TransportError | ServerNotReadyError):
            raise error
        return self._attempts.failed(error)

    def _reached_stop(self) -> bool:
        return self._wanted.stop is not None and self.following >= self._wanted.stop


class StreamCursor(Cursor):
    """Reads by StreamFrames."""

    _assembler: FrameAssembler | None = None

    def request(self) -> service_pb.StreamFramesRequest:
        """Return what opens a stream at the frame that is due."""
        wanted = self._wanted
        self._assembler = None
        request = service_pb.StreamFramesRequest(
            generation_id=wanted.generation_id, start_frame_index=self.following, end_frame_index=wanted.stop or 0
        )
        if wanted.output is not None:
            request.output_format.CopyFrom(self._output)
        if wanted.stall_timeout is not None and wanted.stall_timeout < 3 * _SERVERS_KEEPALIVE:
            request.keepalive_interval.CopyFrom(_duration(max(1.0, wanted.stall_timeout / 3)))
        return request

    def take(self, message: service_pb.StreamFramesResponse) -> Frame | None:
        """Take a message; return the frame that it completes.

        Raises:
            TransportError, ServerDrainingError: the stream is of no more use; `failed` says what then.
            GenerationFailedError, GenerationCancelledError: there will be no further frame.
        """
        match message.WhichOneof("payload"):
            case "header":
                self._assembler = FrameAssembler(message.header)
            case "frame":
                if self._assembler is None:
                    raise ProtocolError("the server sent a frame before the header")
                frame = self._assembler.add(message.frame, index=self.following)
                if frame is not None:
                    self._attempts.progressed()  # slices alone are none: a frame may be damaged every time
                    self.following += 1
                return frame
            case "gap":
                self._pass_gap(message.gap)
                self._attempts.progressed()
            case "keepalive" | "progress":
                self._attempts.progressed()
            case "end":
                self._finish(message.end)
            case _:
                pass  # a case newer than this client
        return None

    def broke_off(self) -> TransportError:
        """Return the error of a stream that stopped without an end."""
        return TransportError(
            f"the server ended the frames of {self._wanted.generation_id} half-way", code="UNAVAILABLE"
        )

    def _pass_gap(self, gap: service_pb.FrameGap) -> None:
        if gap.first_missing_frame_index != self.following or gap.next_frame_index <= self.following:
            raise ProtocolError(
                f"expected frame {self.following}, the server left out frames from {gap.first_missing_frame_index} "
                f"to {gap.next_frame_index}"
            )
        self.following = gap.next_frame_index
        if self._assembler is not None:
            self._assembler.drop()

    def _finish(self, end: service_pb.StreamEnd) -> None:
        """Return when every frame was delivered; raise what stands in the way otherwise."""
        state = _convert.state(end.state)
        error = end.error if end.HasField("error") else None
        if not self._reached_stop():
            _check_end(error, state, self._wanted.generation_id)
            if end.next_frame_index != self.following:
                raise ProtocolError(f"the server ended at frame {end.next_frame_index}, but {self.following} was due")
        self.ended = True


class PullCursor(Cursor):
    """Reads by PullFrames; with `Wanted.latest` only the newest frame of each moment."""

    def __init__(self, wanted: Wanted) -> None:
        super().__init__(wanted)
        self._assembler: FrameAssembler | None = None
        self._failure: VinfError | None = None
        self._rejected = False

    @property
    def wait(self) -> float:
        """Seconds that the server may wait for the first frame."""
        patience = self._wanted.stall_timeout
        return _LONGEST_WAIT if patience is None else max(0.0, min(_LONGEST_WAIT, patience / 2))

    def request(self) -> service_pb.PullFramesRequest:
        """Return the next pull."""
        wanted, assembler = self._wanted, self._assembler
        limit = _BATCH if wanted.stop is None else min(_BATCH, wanted.stop - self.following)
        request = service_pb.PullFramesRequest(
            generation_id=wanted.generation_id,
            start_frame_index=self.following,
            max_frames=1 if wanted.latest else limit,
            max_data_bytes=_SLICE_BYTES,
            start_byte_offset=assembler.filled if assembler is not None else 0,
            wait=_duration(self.wait),
            delivery=service_pb.DELIVERY_LATEST if wanted.latest else service_pb.DELIVERY_ALL,
            known_format_revision=assembler.layout.revision if assembler is not None else 0,
        )
        if wanted.output is not None:
            request.output_format.CopyFrom(self._output)
        return request

    def take(self, response: service_pb.PullFramesResponse) -> list[Frame]:
        """Take an answer; return the frames that it completes. `finish` tells what came of it once `ended`.

        Raises:
            TransportError, ServerDrainingError: as of `StreamCursor.take`.
        """
        frames = self._read(response)
        state = _convert.state(response.state)
        error = response.error if response.HasField("error") else None
        if self._reached_stop():
            self.ended = True
        elif response.end_of_stream and not self._rejected:
            self._end(error, state, has_frames=bool(frames))
        elif error is not None and not frames:
            _check_end(error, state, self._wanted.generation_id)
        if not (self._assembler is not None and self._assembler.filled):
            self._attempts.progressed()
        return frames

    def finish(self) -> None:
        """Return when every frame that was wanted came.

        Raises:
            GenerationFailedError, GenerationCancelledError: there will be no further frame.
        """
        if self._failure is not None:
            raise self._failure

    def failed(self, error: VinfError) -> float:
        """Return the seconds to wait before the next try, or raise `error`; call it while `error` is handled."""
        if self._assembler is not None:
            self._assembler.drop()
        return super().failed(error)

    def _read(self, response: service_pb.PullFramesResponse) -> list[Frame]:
        self._rejected = False
        if response.HasField("format"):
            self._assembler = FrameAssembler(response.format)
        frames: list[Frame] = []
        for message in response.frames:
            assembler = self._assembler
            if assembler is None:
                raise ProtocolError("the server sent a frame before the format")
            if self._wanted.latest and not assembler.filled and message.frame_index > self.following:
                self.following = message.frame_index
            try:
                frame = assembler.add(message, index=self.following)
            except DamagedFrameError:
                if not frames:
                    raise
                assembler.drop()
                self._rejected = True
                break  # those before it are good; it is pulled again, as the first one
            if frame is None:
                continue
            self.following += 1
            if self._wanted.stop is None or frame.index < self._wanted.stop:
                frames.append(frame)
        return frames

    def _end(self, error: generation_pb2.GenerationError | None, state: GenerationState, *, has_frames: bool) -> None:
        try:
            if error is not None or state not in (GenerationState.PENDING, GenerationState.RUNNING):
                _check_end(error, state, self._wanted.generation_id)  # else: the last frame comes before the end
        except ServerDrainingError:
            if has_frames:
                return  # the next pull tells
            raise
        except VinfError as failure:
            self._failure = failure
        self.ended = True


def stalled(seconds: float | None) -> StallError:
    """Return the error of a silent stream."""
    return StallError(
        f"the server sent nothing, not even a sign of life, for {seconds or 0:g} s; it hangs, or the network does",
        code="UNAVAILABLE",
    )


def _check_end(error: generation_pb2.GenerationError | None, state: GenerationState, generation_id: str) -> None:
    """Return after a success; raise what else an end means."""
    failure = _convert.failure(error) if error is not None else None
    if (failure is not None and failure.reason == _DRAINING) or state in (
        GenerationState.PENDING,
        GenerationState.RUNNING,
        GenerationState.CANCELLING,
    ):
        # Accepted generations outlive a restart of the server: come back for the rest.
        raise ServerDrainingError(
            failure.message if failure is not None else "the server is shutting down",
            code="UNAVAILABLE",
            reason=_DRAINING,
        )
    if failure is not None or state is not GenerationState.SUCCEEDED:
        raise failure_error(failure, state, generation_id)


def _duration(seconds: float) -> Duration:
    found = Duration()
    found.FromNanoseconds(int(seconds * 1e9))
    return found
