"""What can go wrong, as one tree.

    VinfError
    ├── InvalidRequestError          the request breaks a rule; .violations has all of them        (also a ValueError)
    │   ├── RequestIdReusedError     the request id belongs to a generation with another specification
    │   └── ConfigError              the file of settings cannot be used; the message names it and the key
    ├── NotFoundError
    │   ├── ModelNotFoundError       the server does not serve this model
    │   └── GenerationNotFoundError  the server does not know this generation (any more)
    ├── WrongStateError              the generation is in a state that does not allow it: delete one that has not ended
    ├── FrameDamagedError            the server's disk lost this frame, .frame_index; those behind it can be read
    ├── FrameEvictedError            the server no longer keeps this frame; .first_available_frame_index is the oldest
    ├── AuthenticationError          the server wants a token, or another one
    ├── QueueFullError               too many generations wait; .retry_after says when to come back
    ├── ClientLimitError             this client has as many generations, or calls as often, as it may; .retry_after
    ├── DiskFullError                the server has no room for another video
    ├── ServerNotReadyError          the ranks are still starting; .retry_after
    │   └── ServerDrainingError      the server is shutting down and takes no new work
    ├── GenerationFailedError        accepted, but it ended with an error
    ├── GenerationCancelledError     accepted, but somebody cancelled it
    ├── TransportError               no server there, or the connection broke for good
    │   ├── RpcTimeoutError          the server did not answer in time
    │   └── StallError               a stream fell silent, without a sign of life, for longer than `stall_timeout`
    ├── ClientClosedError            the client was closed before or during the call
    ├── ServerError                  the server failed in a way that is no fault of the caller
    ├── ProtocolError                the server broke the contract of the interface
    ├── LocalServerError             the server started for this call did not come up, or died
    └── OutputError                  the result cannot be written where it was asked for          (also an OSError)

Nobody who uses this package meets a `grpc.RpcError`: `_translate` turns each into one of these and chains it.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

# Wire path → keyword of Client.generate. The command's option is the keyword with dashes (`option_name`).
ARGUMENTS = {
    "spec.model": "model",
    "spec.prompt": "prompt",
    "spec.negative_prompt": "negative_prompt",
    "spec.width": "width",
    "spec.height": "height",
    "spec.frame_count": "frames",
    "spec.frame_rate": "fps",
    "spec.frame_rate.num": "fps",
    "spec.frame_rate.den": "fps",
    "spec.seed": "seed",
    "spec.inference_step_count": "steps",
    "spec.guidance_scale": "guidance",
    "spec.solver": "solver",
    "spec.temporal_scope.local_window_frames": "window",
    "spec.temporal_scope.global_frames": "global_frames",
    "spec.temporal_scope.phase_timestep": "phase_timestep",
    "spec.temporal_scope.phase_bias": "phase_bias",
    "spec.temporal_scope.global_across_cuts": "global_across_cuts",
    "spec.temporal_scope.initial_noise": "initial_noise",
    "spec.temporal_scope.global_choice": "global_choice",
    "spec.temporal_scope.overlap_frames": "overlap",
    "spec.prompt_segments": "segments",
    "spec.image_conditions": "image_conditions",
    "lease_duration": "lease",
    "preview_interval_steps": "preview_every",
}

# The same for the fields of one segment: spec.prompt_segments[1].start_frame_index → segments[1].start_frame.
_OF_SEGMENT = re.compile(r"spec\.prompt_segments(\[\d+\])(?:\.(\w+))?")
_SEGMENT_FIELDS = {"start_frame_index": "start_frame", "transition_frame_count": "transition_frames"}


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken rule: the field by its path on the wire, and what is wrong with it.

    `source` is where the value comes from when no argument gave it: a variable of the environment or the file of
    settings and its key; empty otherwise.
    """

    field: str
    description: str
    source: str = ""

    @property
    def argument(self) -> str:
        """The keyword of `Client.generate` that sets the field; the path itself where there is none."""
        if match := _OF_SEGMENT.fullmatch(self.field):
            index, name = match.groups()
            return f"segments{index}.{_SEGMENT_FIELDS.get(name, name)}" if name else f"segments{index}"
        if self.field.startswith("spec.image_conditions["):
            return self.field.removeprefix("spec.")
        return ARGUMENTS.get(self.field, self.field)

    def __str__(self) -> str:
        return f"{self.source or self.argument}: {self.description}"


class VinfError(Exception):
    """Base of everything this package raises on purpose.

    Attributes:
        code: gRPC status code by name, for example "UNAVAILABLE"; empty when no server was involved.
        reason: the server's word for programs, for example "QUEUE_FULL"; empty when there is none.
        metadata: everything dynamic in the message, by name.
        retry_after: seconds after which the server suggests to try again; None when it does not.
        retryable: whether the same call may succeed later.
        request_id: that of the call that created the generation, for the server's log; empty where none was made.
    """

    retryable = False
    request_id = ""

    def __init__(
        self,
        message: str,
        *,
        code: str = "",
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.retry_after = retry_after

    def __str__(self) -> str:
        return self.message


class InvalidRequestError(VinfError, ValueError):
    """The request breaks rules; mend every entry of `violations` and send it again.

    With reason SPEC_TOO_LARGE only the ranks' memory is in the way: ``metadata["maxFrameCount"]`` frames would fit.
    """

    def __init__(self, message: str, *, violations: Sequence[Violation] = (), **details: object) -> None:
        super().__init__(message, **details)  # type: ignore[arg-type]
        self.violations = tuple(violations)

    @classmethod
    def of(cls, violations: Sequence[Violation]) -> "InvalidRequestError":
        """Build the error whose message is the violations themselves."""
        text = "; ".join(str(violation) for violation in violations)
        return cls(text, violations=violations, code="INVALID_ARGUMENT", reason="INVALID_FIELD")


class RequestIdReusedError(InvalidRequestError):
    """The request id was used before for another specification; use a new one."""


class ConfigError(InvalidRequestError):
    """The file of settings cannot be used; the message names it and the key to mend."""


class NotFoundError(VinfError):
    """The server does not know what was asked for."""


class ModelNotFoundError(NotFoundError):
    """The server does not serve this model; `Client.info().models` lists those it does."""


class GenerationNotFoundError(NotFoundError):
    """The server does not know this generation; perhaps its retention ran out or the id has a typing error."""


class WrongStateError(VinfError):
    """The state of the generation does not allow it; one that has not ended must be cancelled before it is deleted."""


class FrameDamagedError(VinfError):
    """What the server's disk gives back is not the frame that was stored; the frames behind it can be read."""

    @property
    def frame_index(self) -> int | None:
        """The frame that is lost; None when the server did not say."""
        text = self.metadata.get("frameIndex", "")
        return int(text) if text.isascii() and text.isdigit() else None


class FrameEvictedError(VinfError):
    """The server no longer keeps the first frame that was asked for."""

    @property
    def first_available_frame_index(self) -> int | None:
        """The oldest frame that is kept; None when the server did not say."""
        text = self.metadata.get("firstAvailableFrameIndex", "")
        return int(text) if text.isascii() and text.isdigit() else None


class AuthenticationError(VinfError):
    """The server does not know who calls: `reason` says whether the token is missing, wrong or has expired."""


class QueueFullError(VinfError):
    """As many generations wait as the server allows; come back after `retry_after` seconds."""

    retryable = True


class ClientLimitError(VinfError):
    """A limit of this client is reached; the message names it. Come back after `retry_after` seconds."""

    retryable = True


class DiskFullError(VinfError):
    """The server has no room for another video; delete generations that are no longer needed, or wait."""

    retryable = True


class ServerNotReadyError(VinfError):
    """The ranks have not reported yet (they load the model); come back after `retry_after` seconds."""

    retryable = True


class ServerDrainingError(ServerNotReadyError):
    """The server is shutting down; another server, or this one after its restart, takes new work."""


class GenerationFailedError(VinfError):
    """The generation ended with an error; frames made before it stay readable for a while."""

    def __init__(self, message: str, *, generation_id: str = "", **details: object) -> None:
        super().__init__(message, **details)  # type: ignore[arg-type]
        self.generation_id = generation_id


class GenerationCancelledError(VinfError):
    """Somebody cancelled the generation (or its time ran out); frames made before stay readable for a while."""

    def __init__(self, message: str, *, generation_id: str = "", **details: object) -> None:
        super().__init__(message, **details)  # type: ignore[arg-type]
        self.generation_id = generation_id


class TransportError(VinfError):
    """No server answers at the address, or the connection broke and could not be resumed."""

    retryable = True


class RpcTimeoutError(TransportError):
    """The server is there but did not answer within `rpc_timeout`; it is overloaded or hangs."""


class StallError(TransportError):
    """A stream brought nothing, not even a sign of life, for `stall_timeout` seconds, also when it was opened again."""


class ClientClosedError(VinfError):
    """The client was closed, by this thread before the call or by another one while it lasted."""


class ServerError(VinfError):
    """The server failed; its log knows more. Not the caller's mistake."""


class ProtocolError(VinfError):
    """The server sent something the interface does not allow; client and server are of different versions."""


class LocalServerError(VinfError):
    """The server started for this call did not come up, or died; the message ends with its last lines."""


class OutputError(VinfError, OSError):
    """The result cannot be written where it was asked for."""


@contextmanager
def naming(request_id: str) -> Iterator[None]:
    """Note on the errors of the body which call created the generation that they are about."""
    try:
        yield
    except VinfError as error:
        error.request_id = error.request_id or request_id
        raise
