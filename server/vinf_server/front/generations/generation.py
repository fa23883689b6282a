"""One generation and the states it may pass through."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import TypeAlias

from google.rpc import code_pb2

from vinf.v1 import generation_pb2
from vinf_server.front.checkpoints import CheckpointFolder
from vinf_server.front.frames.previews import PreviewBoard
from vinf_server.front.frames.spool import SpoolFile
from vinf_server.front.generations.images import ImageFile
from vinf_server.front.traces.readers import Readers
from vinf_server.front.traces.trace_file import TraceFile
from vinf_server.front.wakeup import Wakeup

State: TypeAlias = "generation_pb2.GenerationState.ValueType"
Stage: TypeAlias = "generation_pb2.GenerationStage.ValueType"

PENDING = generation_pb2.GENERATION_STATE_PENDING
RUNNING = generation_pb2.GENERATION_STATE_RUNNING
CANCELLING = generation_pb2.GENERATION_STATE_CANCELLING
SUCCEEDED = generation_pb2.GENERATION_STATE_SUCCEEDED
FAILED = generation_pb2.GENERATION_STATE_FAILED
CANCELLED = generation_pb2.GENERATION_STATE_CANCELLED
SUSPENDED = generation_pb2.GENERATION_STATE_SUSPENDED

TERMINAL = frozenset({SUCCEEDED, FAILED, CANCELLED})
IN_WORK = frozenset({RUNNING, CANCELLING})

DEFAULT_PRIORITY = 5
QUEUED = "QUEUED"
"""Why a generation is PENDING when nothing has happened to it yet."""

SERVER_RESTARTED = "SERVER_RESTARTED"
"""Why it is PENDING when it was running as the server ended."""

# RUNNING goes back to PENDING when the ranks are lost or taken away.
# CANCELLING may still succeed: the last frame can be made before the ranks see the order to stop.
_ALLOWED: dict[State, frozenset[State]] = {
    PENDING: frozenset({RUNNING, SUSPENDED, FAILED, CANCELLED}),
    RUNNING: frozenset({PENDING, SUSPENDED, CANCELLING, SUCCEEDED, FAILED, CANCELLED}),
    SUSPENDED: frozenset({PENDING, FAILED, CANCELLED}),
    CANCELLING: frozenset({SUCCEEDED, FAILED, CANCELLED}),
    SUCCEEDED: frozenset(),
    FAILED: frozenset(),
    CANCELLED: frozenset(),
}


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a generation ended early."""

    code: int
    reason: str
    message: str
    metadata: dict[str, str] = field(default_factory=dict)


CANCEL_REQUESTED = Failure(code_pb2.CANCELLED, "CANCEL_REQUESTED", "cancelled by CancelGeneration")
"""Why a generation ends where its client asked for it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """How a generation is to be run and kept: what a client asks for beside the specification, defaults filled in."""

    owner: str = ""
    """Who created it; empty where clients are not told apart."""

    priority: int = DEFAULT_PRIORITY
    lease_s: float | None = None
    """It is cancelled when nobody asks for it for so long; None: it is detached."""

    deadline_ns: int = 0
    """Wall clock; 0: none."""

    retention_frame_count: int = 0
    """Frames kept at a time; 0: all."""

    drops_oldest: bool = False
    """What happens beyond `retention_frame_count`: the oldest frame is dropped, or else the generation waits."""

    labels: tuple[tuple[str, str], ...] = ()
    """Sorted by key."""

    preview_interval_steps: int = 0
    """Steps from one preview to the next; 0: none."""


@dataclass(frozen=True, slots=True)
class Event:
    """A change of state."""

    sequence: int
    """Dense from 1 within a generation."""

    time_ns: int
    state: State
    state_reason: str
    message: str = ""


@dataclass(kw_only=True, slots=True, eq=False)
class Generation:
    """A generation as the front knows it; touched by the event loop only. Times are in nanoseconds, 0 = not yet."""

    generation_id: str
    request_id: str
    normalised_spec: generation_pb2.GenerationSpec
    """Every default filled in but the seed: what a repeated request_id is compared with."""

    resolved_spec: generation_pb2.GenerationSpec
    frames: SpoolFile
    checkpoints: CheckpointFolder
    create_time_ns: int
    terms: Terms = field(default_factory=Terms)
    state: State = PENDING
    state_reason: str = QUEUED
    events: list[Event] = field(default_factory=list)
    """Every change of state so far, its creation first."""
    stage: Stage = generation_pb2.GENERATION_STAGE_QUEUED
    completed_steps: int = 0
    failure: Failure | None = None
    ending: Failure | None = None
    """Why it is being cancelled: what it ends with once the ranks have stopped."""

    clip_frame_counts: tuple[int, ...] = ()
    texts_at_once: int = 0
    """Texts a step runs at once, as the ranks chose when it was started for the first time; 0 = not known."""
    is_forgotten: bool = False
    """Deleted or expired: nobody finds it any more, and streams of it end."""
    idle_loss_count: int = 0
    """Times the ranks were lost with this generation in work since it last got anywhere."""
    last_loss: tuple[int, int] = (0, 0)
    """Steps of the newest checkpoint and frames in the spool when the ranks were last lost."""
    peak_memory_bytes: tuple[int, ...] = ()
    start_time_ns: int = 0
    first_frame_time_ns: int = 0
    last_frame_time_ns: int = 0
    end_time_ns: int = 0
    previews: PreviewBoard = field(default_factory=PreviewBoard)
    readers: Readers = field(default_factory=Readers)
    trace: TraceFile = field(init=False)
    images: ImageFile = field(init=False)
    released: Wakeup = field(default_factory=Wakeup)
    """Notified when frames were dropped, so that there is room for more."""
    changed: Wakeup = field(default_factory=Wakeup)
    """Notified on every change, frames included."""

    @property
    def is_terminal(self) -> bool:
        """True when nothing about it changes any more."""
        return self.state in TERMINAL

    def __post_init__(self) -> None:
        self.trace = TraceFile(self.frames.path.with_name("trace"))
        self.images = ImageFile(
            self.frames.path.with_name("images.rgb24"),
            count=len(self.resolved_spec.image_conditions),
            image_size=self.frames.frame_size,
        )
        if not self.events:
            self.events.append(Event(1, self.create_time_ns, self.state, self.state_reason))

    @property
    def frame_limit(self) -> int:
        """The first frame that may not be stored yet, because the readers must release others before."""
        if self.terms.retention_frame_count and not self.terms.drops_oldest:
            return self.frames.first_available + self.terms.retention_frame_count
        return self.frames.frame_count

    def move_to(self, state: State, reason: str = "", message: str = "") -> None:
        """Change the state; a step that the contract does not know is a bug of ours.

        Args:
            state: where to.
            reason: `Generation.state_reason` of the contract.
            message: for people.
        """
        assert state in _ALLOWED[self.state], f"{self.generation_id}: {self.state} -> {state}"
        self.state = state
        self.state_reason = reason
        self.events.append(Event(len(self.events) + 1, time.time_ns(), state, reason, message))
        self.changed.notify()


class IdSource:
    """Ids that sort by time: 12 digits of strictly growing milliseconds and 80 random bits, in lower-case hex."""

    def __init__(self) -> None:
        self._last_ms = 0

    def not_before(self, generation_id: str) -> None:
        """Note an id that was used: the clock may have been set back since."""
        self._last_ms = max(self._last_ms, int(generation_id.partition("-")[0], 16))

    def next(self) -> str:
        """Return an id that was never used and sorts after all earlier ones."""
        self._last_ms = max(time.time_ns() // 1_000_000, self._last_ms + 1)
        return f"{self._last_ms:012x}-{os.urandom(10).hex()}"
