"""Python SDK and the `vinf` command.

>>> from vinf_client import Client
>>> with Client("127.0.0.1:50051") as client:                                      # doctest: +SKIP
...     for frame in client.generate("a red ball bouncing over the sea", frames=96):
...         show(frame.to_numpy())

Names are imported when first used: `vinf serve` and `vinf --help` need none of them, and work without numpy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vinf_client._aio.client import AsyncClient
    from vinf_client._aio.generation import AsyncGenerationHandle
    from vinf_client._aio.puller import AsyncFramePuller
    from vinf_client._aio.video import AsyncVideo
    from vinf_client._client import Client
    from vinf_client._config import ConfigWarning
    from vinf_client._errors import (
        AuthenticationError,
        ClientClosedError,
        ClientLimitError,
        ConfigError,
        DiskFullError,
        FrameDamagedError,
        FrameEvictedError,
        GenerationCancelledError,
        GenerationFailedError,
        GenerationNotFoundError,
        InvalidRequestError,
        LocalServerError,
        ModelNotFoundError,
        NotFoundError,
        OutputError,
        ProtocolError,
        QueueFullError,
        RequestIdReusedError,
        RpcTimeoutError,
        ServerDrainingError,
        ServerError,
        ServerNotReadyError,
        StallError,
        TransportError,
        VinfError,
        Violation,
        WrongStateError,
    )
    from vinf_client._format import FrameFormat, VideoFormat
    from vinf_client._frame import Frame
    from vinf_client._generation import GenerationHandle
    from vinf_client._images import ImageCondition
    from vinf_client._puller import FramePuller
    from vinf_client._stats import PullerStats
    from vinf_client._trace import RankShares, Trace, TraceLane, TraceSpan
    from vinf_client._types import (
        Clip,
        Failure,
        Generation,
        GenerationEvent,
        GenerationSpec,
        GenerationStage,
        GenerationState,
        GlobalChoice,
        ImageDigest,
        ImageFrames,
        InitialNoise,
        Limits,
        Mesh,
        Model,
        Preview,
        Progress,
        PromptSegment,
        Rank,
        ServerInfo,
        Solver,
        TemporalScope,
        Update,
    )
    from vinf_client._video import Video

_HOMES = {
    "vinf_client._aio.client": ("AsyncClient",),
    "vinf_client._aio.generation": ("AsyncGenerationHandle",),
    "vinf_client._aio.puller": ("AsyncFramePuller",),
    "vinf_client._aio.video": ("AsyncVideo",),
    "vinf_client._client": ("Client",),
    "vinf_client._config": ("ConfigWarning",),
    "vinf_client._format": ("FrameFormat", "VideoFormat"),
    "vinf_client._frame": ("Frame",),
    "vinf_client._generation": ("GenerationHandle",),
    "vinf_client._images": ("ImageCondition",),
    "vinf_client._video": ("Video",),
    "vinf_client._puller": ("FramePuller",),
    "vinf_client._stats": ("PullerStats",),
    "vinf_client._errors": (
        "AuthenticationError",
        "ClientClosedError",
        "ClientLimitError",
        "ConfigError",
        "DiskFullError",
        "FrameDamagedError",
        "FrameEvictedError",
        "GenerationCancelledError",
        "GenerationFailedError",
        "GenerationNotFoundError",
        "InvalidRequestError",
        "LocalServerError",
        "ModelNotFoundError",
        "NotFoundError",
        "OutputError",
        "ProtocolError",
        "QueueFullError",
        "RequestIdReusedError",
        "RpcTimeoutError",
        "ServerDrainingError",
        "ServerError",
        "ServerNotReadyError",
        "StallError",
        "TransportError",
        "VinfError",
        "Violation",
        "WrongStateError",
    ),
    "vinf_client._trace": ("RankShares", "Trace", "TraceLane", "TraceSpan"),
    "vinf_client._types": (
        "Clip",
        "Failure",
        "Generation",
        "GenerationEvent",
        "GenerationSpec",
        "GenerationStage",
        "GenerationState",
        "GlobalChoice",
        "InitialNoise",
        "ImageDigest",
        "ImageFrames",
        "Limits",
        "Mesh",
        "Model",
        "Preview",
        "Progress",
        "PromptSegment",
        "Rank",
        "ServerInfo",
        "Solver",
        "TemporalScope",
        "Update",
    ),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "AsyncClient",
    "AsyncFramePuller",
    "AsyncGenerationHandle",
    "AsyncVideo",
    "AuthenticationError",
    "Client",
    "ClientClosedError",
    "ClientLimitError",
    "Clip",
    "ConfigError",
    "ConfigWarning",
    "DiskFullError",
    "Failure",
    "Frame",
    "FrameDamagedError",
    "FrameEvictedError",
    "FrameFormat",
    "FramePuller",
    "Generation",
    "GenerationCancelledError",
    "GenerationEvent",
    "GenerationFailedError",
    "GenerationHandle",
    "GenerationNotFoundError",
    "GenerationSpec",
    "GenerationStage",
    "GenerationState",
    "GlobalChoice",
    "ImageCondition",
    "ImageDigest",
    "ImageFrames",
    "InitialNoise",
    "InvalidRequestError",
    "Limits",
    "LocalServerError",
    "Mesh",
    "Model",
    "ModelNotFoundError",
    "NotFoundError",
    "OutputError",
    "Preview",
    "Progress",
    "PromptSegment",
    "ProtocolError",
    "PullerStats",
    "QueueFullError",
    "Rank",
    "RankShares",
    "RequestIdReusedError",
    "RpcTimeoutError",
    "ServerDrainingError",
    "ServerError",
    "ServerInfo",
    "ServerNotReadyError",
    "Solver",
    "StallError",
    "TemporalScope",
    "Trace",
    "TraceLane",
    "TraceSpan",
    "TransportError",
    "Update",
    "Video",
    "VideoFormat",
    "VinfError",
    "Violation",
    "WrongStateError",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
