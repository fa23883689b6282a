"""Readers of frames: those who follow, those who dawdle, those who jump about, those who pull."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import google_crc32c
import grpc
from google.protobuf import duration_pb2

from tests.chaos.api import RPC_TIMEOUT_S, TERMINAL, Api, is_passing, reason_of, v1
from tests.chaos.history import History, ReaderLog, StreamLog
from vinf.v1 import frame_pb2

SILENCE_S = 15.0
"""Without a message for so long, though a keepalive is due every second, a reader calls again."""

_KEEPALIVE = duration_pb2.Duration(seconds=1)


class Reading:
    """What readers of one client share."""

    def __init__(self, history: History, rng: random.Random, statuses: Counter[str]) -> None:
        self.history = history
        self.rng = rng
        self.statuses = statuses
        """How streams broke."""

    async def follow(self, api: Api, log: ReaderLog, *, dawdles: bool = False) -> None:
        """Read from the first frame to the end, calling again whenever the stream breaks."""
        while not self._is_over(await self.stream(api, log, log.following, dawdles=dawdles)):
            await self._pause()

    async def hop(self, api: Api, log: ReaderLog, frame_count: int) -> None:
        """Open streams at random indices and abandon them after a few frames; at last read everything."""
        for _ in range(self.rng.randint(2, 6)):
            start = self.rng.randrange(frame_count + 1)
            await self.stream(api, log, start, leave_after=self.rng.randint(0, 5), patience_s=self.rng.uniform(0.2, 4))
        start = 0
        while not self._is_over(await self.stream(api, log, start)):
            # Broken on the way: the next stream stands for itself again, from where this one stopped.
            start = log.streams[-1].receipts[-1].index + 1 if log.streams[-1].receipts else start
            await self._pause()

    async def pull(self, api: Api, log: ReaderLog) -> None:
        """Read everything by PullFrames, a few frames at a time; a reply that was lost is pulled again."""
        while True:
            stream = log.open(log.following)
            request = v1.PullFramesRequest(
                generation_id=log.generation_id,
                start_frame_index=stream.start,
                max_frames=self.rng.randint(1, 8),
                wait=duration_pb2.Duration(seconds=2),
            )
            try:
                reply = await api.video.PullFrames(request, timeout=RPC_TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                if self._broke(stream, log, error):
                    return
                await self._pause()
                continue
            for frame in reply.frames:
                self._take(stream, log, frame, frame.data)
            stream.ended = "left"
            if reply.end_of_stream:
                stream.ended, stream.end_state, stream.end_next = "end", reply.state, reply.next_frame_index
                if reply.state in TERMINAL:
                    return

    async def stream(
        self,
        api: Api,
        log: ReaderLog,
        start: int,
        *,
        dawdles: bool = False,
        leave_after: int | None = None,
        patience_s: float = SILENCE_S,
    ) -> StreamLog:
        """Make one StreamFrames call.

        Args:
            api: the connection.
            log: the reader's.
            start: first frame wanted.
            dawdles: pause between frames, now and then for seconds.
            leave_after: abandon the stream after so many frames.
            patience_s: abandon it after so much silence.
        """
        stream = log.open(start)
        request = v1.StreamFramesRequest(
            generation_id=log.generation_id, start_frame_index=start, keepalive_interval=_KEEPALIVE
        )
        call = api.video.StreamFrames(request)
        pixels = bytearray()
        try:
            while leave_after is None or len(stream.receipts) < leave_after:
                message = await asyncio.wait_for(call.read(), patience_s)
                if message is grpc.aio.EOF:
                    stream.ended = "no end"
                    break
                kind = message.WhichOneof("payload")
                if kind == "frame":
                    pixels += message.frame.data
                    if len(pixels) == message.frame.data_size_bytes:
                        self._take(stream, log, message.frame, bytes(pixels))
                        pixels.clear()
                        if dawdles:
                            await asyncio.sleep(self.rng.choice((0, 0, 0.02, 0.1, 0.3, 1.5)))
                elif kind == "gap":
                    self._complain(log, f"a gap before frame {message.gap.next_frame_index}")
                elif kind == "end":
                    stream.ended, stream.end_state = "end", message.end.state
                    stream.end_next = message.end.next_frame_index
                    break
            else:
                stream.ended = "left"
        except TimeoutError:
            stream.ended = "silence" if leave_after is None else "left"
        except grpc.aio.AioRpcError as error:
            if self._broke(stream, log, error):
                stream.ended = "refused"
        finally:
            call.cancel()  # an abandoned call would never end by itself
        if stream.ended not in ("end", "left", "refused"):
            self.statuses[stream.ended] += 1
        return stream

    def _take(self, stream: StreamLog, log: ReaderLog, frame: frame_pb2.Frame, data: bytes) -> None:
        """Note a whole frame, whose last slice this is; a checksum of 0 was not sent."""
        if frame.crc32c and frame.crc32c != google_crc32c.value(data):
            self._complain(log, f"frame {frame.frame_index} does not have its checksum {frame.crc32c:08x}")
        self.history.received(stream, frame.frame_index, data)

    async def _pause(self) -> None:
        """Between two calls of a client that is refused or cut off."""
        await asyncio.sleep(self.rng.uniform(0.05, 0.5))

    def _is_over(self, stream: StreamLog) -> bool:
        return stream.ended == "refused" or (stream.ended == "end" and stream.end_state in TERMINAL)

    def _broke(self, stream: StreamLog, log: ReaderLog, error: grpc.aio.AioRpcError) -> bool:
        """Note how a call broke; returns whether that was final, which it never should be."""
        stream.ended = error.code().name
        if is_passing(error):
            return False
        self._complain(log, f"{error.code().name} / {reason_of(error)}: {error.details()}")
        return True

    def _complain(self, log: ReaderLog, problem: str) -> None:
        self.history.complaints.append(f"{log.client}, {log.generation_id}: {problem}")
