"""Everything that can be wrong with a request, as exceptions.

    VinfError
    ├── InvalidFieldsError        fields outside their documented range, all of them
    │   └── SpecTooLargeError     nothing else is wrong, but a rank's memory would not hold it
    ├── MalformedRequestError     bytes that are no such message
    ├── ModelNotFoundError        a model this server does not have
    ├── GenerationNotFoundError   an id this server does not know, or does not tell this client about
    ├── FrameEvictedError         a frame that is no longer kept
    ├── FrameDamagedError         a frame that is no longer what was stored
    ├── WrongStateError           the generation is in no state to do that
    ├── RequestIdReusedError      a known request_id with another specification
    ├── QueueFullError            too many generations wait already
    ├── ClientLimitError          one client asks for more than its share
    ├── DiskFullError             there is no room to keep frames
    ├── UnauthenticatedError      nothing that says who calls, or nothing that is known
    ├── WorkersNotReadyError      the ranks have not reported yet
    └── ServerDrainingError       the server is shutting down

`rpc/errors.py` says which status each of them becomes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class VinfError(Exception):
    """Base of what a client is told; `metadata` repeats everything dynamic in the message, by lowerCamelCase name."""

    def __init__(self, message: str, **metadata: str) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = metadata


@dataclass(frozen=True, slots=True)
class Violation:
    """One field and what is wrong with it."""

    field: str
    description: str


class InvalidFieldsError(VinfError, ValueError):
    """Fields of the request are outside their documented range."""

    def __init__(self, violations: Sequence[Violation]) -> None:
        listed = "; ".join(f"{violation.field}: {violation.description}" for violation in violations)
        super().__init__(listed, fieldCount=str(len(violations)))
        self.violations = tuple(violations)


class SpecTooLargeError(InvalidFieldsError):
    """The generation would take more memory than a rank has."""

    def __init__(
        self, violation: Violation, *, max_frame_count: int, predicted_bytes: int, memory_budget_bytes: int
    ) -> None:
        """Say what would fit.

        Args:
            violation: of the field to shrink.
            max_frame_count: the most frames that fit at this width and height; 0: not even one.
            predicted_bytes: what a rank would hold.
            memory_budget_bytes: what it may hold.
        """
        super().__init__([violation])
        self.metadata |= {
            "maxFrameCount": str(max_frame_count),
            "predictedBytes": str(predicted_bytes),
            "memoryBudgetBytes": str(memory_budget_bytes),
        }


class MalformedRequestError(VinfError, ValueError):
    """The bytes of the request are no message of the expected type."""


class ModelNotFoundError(VinfError, LookupError):
    """No model of that name is served here."""


class GenerationNotFoundError(VinfError, LookupError):
    """No generation has that id, or it belongs to another client."""


class RequestIdReusedError(VinfError):
    """The request_id belongs to a generation with another specification."""


class FrameEvictedError(VinfError, LookupError):
    """The frame was dropped, as the generation's retention says."""

    def __init__(self, frame_index: int, first_available: int) -> None:
        super().__init__(
            f"frame {frame_index} is no longer kept; the first one that is has index {first_available}",
            frameIndex=str(frame_index),
            firstAvailableFrameIndex=str(first_available),
        )


class FrameDamagedError(VinfError):
    """What the disk gives back is not the frame that was stored."""

    def __init__(self, frame_index: int, problem: str) -> None:
        super().__init__(
            f"frame {frame_index} cannot be read: {problem}; those behind it can, from frame {frame_index + 1} on",
            frameIndex=str(frame_index),
        )


class WrongStateError(VinfError):
    """The generation is in no state to do that; metadata names the state."""


class RetryLaterError(VinfError):
    """There will be room later."""

    def __init__(self, message: str, *, retry_s: float, **metadata: str) -> None:
        """Say when.

        Args:
            message: what is full.
            retry_s: an honest estimate of when to try again, in seconds.
            metadata: what the message says.
        """
        super().__init__(message, **metadata)
        self.retry_s = retry_s


class QueueFullError(RetryLaterError):
    """As many generations wait as are allowed to."""


class ClientLimitError(RetryLaterError):
    """One client asks for more than its share; metadata `limit` names the limit."""


class DiskFullError(RetryLaterError):
    """There is no room to keep frames."""


class UnauthenticatedError(VinfError):
    """The call carries nothing that says who makes it, or nothing that is known here."""

    def __init__(self, message: str, *, reason: str) -> None:
        """Say what is wrong, and nothing about what would be right.

        Args:
            message: for people.
            reason: TOKEN_MISSING, TOKEN_INVALID, TOKEN_EXPIRED, or CERTIFICATE_INVALID (a client certificate without
                a name; all other bad ones end the handshake).
        """
        super().__init__(message)
        self.reason = reason


class WorkersNotReadyError(VinfError):
    """The ranks have not reported for the first time, so nothing can be checked yet."""


class ServerDrainingError(VinfError):
    """The server is shutting down and takes nothing new."""
