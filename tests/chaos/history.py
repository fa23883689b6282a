"""What every client received, written down as it arrived: the checker needs nothing else."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field

from vinf.v1 import generation_pb2


@dataclass(frozen=True, slots=True)
class Receipt:
    """One whole frame as a client got it."""

    index: int
    digest: str
    time: float
    """time.monotonic() of its last byte."""


@dataclass(slots=True)
class StreamLog:
    """One call that brought frames."""

    start: int
    """The first frame asked for."""

    receipts: list[Receipt] = field(default_factory=list)

    ended: str = "open"
    """"end": the server said so; "left": the reader went away; else the status that the stream broke with."""

    end_state: int = generation_pb2.GENERATION_STATE_UNSPECIFIED
    end_next: int = -1
    """Of StreamEnd; only where `ended` is "end"."""


@dataclass(slots=True)
class ReaderLog:
    """All calls of one reader of one generation."""

    client: str
    generation_id: str

    follows: bool = True
    """Each stream goes on where the one before ended; otherwise every stream stands for itself."""

    streams: list[StreamLog] = field(default_factory=list)

    def open(self, start: int) -> StreamLog:
        """Begin the log of a further call."""
        self.streams.append(StreamLog(start))
        return self.streams[-1]

    @property
    def following(self) -> int:
        """The frame that a reader who follows needs next."""
        return max((receipt.index + 1 for stream in self.streams for receipt in stream.receipts), default=0)


@dataclass(slots=True)
class GenerationLog:
    """One generation as its creator sees it."""

    client: str
    spec: str
    """Name of its specification, and of the reference."""

    submit_time: float
    cancelled: bool = False
    """Somebody asked for its end."""

    abandoned: bool = False
    """Its client has gone without a word: its lease may run out."""

    deleted: bool = False
    """It was forgotten on request, after `final` was taken."""

    final: generation_pb2.Generation | None = None
    """The last snapshot, taken when everything was over."""

    end_time: float = 0.0
    """time.monotonic() when a terminal state was first seen; 0: never."""


@dataclass(slots=True)
class History:
    """Everything that happened to all clients."""

    generations: dict[str, GenerationLog] = field(default_factory=dict)
    readers: list[ReaderLog] = field(default_factory=list)

    contents: dict[str, bytes] = field(default_factory=dict)
    """Pixels by their digest: equal frames are kept once."""

    complaints: list[str] = field(default_factory=list)
    """What clients saw on the way that no server may do."""

    def created(self, generation_id: str, log: GenerationLog) -> None:
        """Note a generation."""
        self.generations[generation_id] = log

    def reader(self, client: str, generation_id: str, *, follows: bool = True) -> ReaderLog:
        """Begin the log of a reader."""
        self.readers.append(ReaderLog(client, generation_id, follows))
        return self.readers[-1]

    def received(self, stream: StreamLog, index: int, data: bytes) -> None:
        """Note a whole frame."""
        digest = hashlib.blake2b(data, digest_size=16).hexdigest()
        self.contents.setdefault(digest, data)
        stream.receipts.append(Receipt(index, digest, time.monotonic()))
