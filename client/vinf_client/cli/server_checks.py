"""Checks of `vinf doctor` that ask the server: health, token, versions, limits, a round trip, ranks, a generation."""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from vinf.v1 import generation_pb2 as pb
from vinf.v1 import server_info_service_pb2 as info_pb
from vinf.v1 import video_generation_service_pb2 as service_pb
from vinf.v1.server_info_service_pb2_grpc import ServerInfoServiceStub
from vinf.v1.video_generation_service_pb2_grpc import VideoGenerationServiceStub
from vinf_client._client import Client
from vinf_client._errors import AuthenticationError, GenerationFailedError, VinfError
from vinf_client._translate import NOT_GRPC, translate, translated
from vinf_client.cli.network_checks import Finding

_API_VERSION = "v1"
_SERVICE = "vinf.v1.VideoGenerationService"
_TIMEOUT = 10.0  # seconds a call may take
_ROUND_TRIPS = 5
_SLOW_ROUND_TRIP = 0.2  # seconds
_CLOCKS_APART = 60.0  # seconds
_REQUEST_BYTES = 1 << 20
_FRAMES, _STEPS = 8, 2
_LEASE = 10.0  # seconds; should we be killed, nothing of ours stays in the queue
_LOOK_AT_RANKS = "wait for them, or look at the server's log (vinf top shows when they come)"


class ServerChecks:
    """Asks one server one thing after the other.

    Args:
        channel: to the server.
        server: its address, for messages.
        metadata: what calls carry: the token.
    """

    def __init__(self, channel: grpc.Channel, server: str, metadata: tuple[tuple[str, str], ...]) -> None:
        self._health = health_pb2_grpc.HealthStub(channel)
        self._server_info = ServerInfoServiceStub(channel)
        self._generations = VideoGenerationServiceStub(channel)
        self._server = server
        self._metadata = metadata

    def run(self) -> Iterator[Finding]:
        """Check everything but a generation; the last finding is a failure when nothing further can work."""
        yield self._check_health()
        try:
            token = self._check_token()
            yield token
            if token.status == "fail":
                return
            info = self._info()
        except VinfError as error:
            yield Finding("server", "fail", str(error), "look at the server's log, and at what is between")
            return
        yield _check_version(info)
        yield _check_clock(info)
        yield self._check_round_trip()
        yield self._check_request_size()
        yield _check_limits(info)
        yield _check_ranks(info)

    def _info(self, *, anonymous: bool = False) -> info_pb.ServerInfo:
        with translated(self._server):
            reply = self._server_info.GetServerInfo(
                info_pb.GetServerInfoRequest(), timeout=_TIMEOUT, metadata=() if anonymous else self._metadata
            )
        return reply.server_info

    def _check_health(self) -> Finding:
        name = "health"
        try:
            alive = self._health.Check(health_pb2.HealthCheckRequest(), timeout=_TIMEOUT).status
            ready = self._health.Check(health_pb2.HealthCheckRequest(service=_SERVICE), timeout=_TIMEOUT).status
        except grpc.RpcError as error:
            code = error.code() if isinstance(error, grpc.Call) else grpc.StatusCode.UNKNOWN
            if code in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.NOT_FOUND):
                return Finding(name, "fail", "this is no vinf server, or something in between is not", "mend --server")
            if NOT_GRPC in str(translate(error, self._server)):
                return Finding(name, "fail", "what listens there does not speak gRPC", "mend the port of --server")
            return Finding(name, "fail", f"no answer: {code.name}", "look at what is between, a proxy or a balancer")
        serving = health_pb2.HealthCheckResponse.SERVING
        if alive != serving:
            return Finding(name, "fail", "the server says that it does not serve", "look at the server's log")
        if ready != serving:
            return Finding(name, "fail", "alive, but not ready: the ranks are not up, or it shuts down", _LOOK_AT_RANKS)
        return Finding(name, "ok", "alive and ready")

    def _check_token(self) -> Finding:
        name = "token"
        try:
            self._info(anonymous=True)
        except AuthenticationError:
            pass  # it wants to know who calls
        else:
            has_token = "given, but the server asks for none" if self._metadata else "the server asks for none"
            return Finding(name, "ok", has_token)
        try:
            self._info()
        except AuthenticationError as error:
            mend = "--token-file FILE or $VINF_TOKEN; the server's operator makes one with vinf token NAME"
            return Finding(name, "fail", str(error), mend)
        return Finding(name, "ok", "accepted")

    def _check_round_trip(self) -> Finding:
        times = []
        try:
            for _ in range(_ROUND_TRIPS):
                began = time.perf_counter()
                self._info()
                times.append(time.perf_counter() - began)
        except VinfError as error:
            return Finding("round trip", "fail", f"it broke off: {error}", "look at what is between")
        median = statistics.median(times)
        text = f"{median * 1000:.1f} ms, the median of {_ROUND_TRIPS} (at most {max(times) * 1000:.1f} ms)"
        if median > _SLOW_ROUND_TRIP:
            return Finding("round trip", "warn", text, "live views will lag; move nearer, or look at the network")
        return Finding("round trip", "ok", text)

    def _check_request_size(self) -> Finding:
        """Send a prompt that is far too long: whoever refuses it for its words has received it."""
        name = "request size"
        request = service_pb.CreateGenerationRequest(
            validate_only=True, spec=pb.GenerationSpec(prompt="x" * (_REQUEST_BYTES - 256))
        )
        try:
            with translated(self._server):
                self._generations.CreateGeneration(request, timeout=_TIMEOUT, metadata=self._metadata)
        except VinfError as error:
            if not error.reason:
                mend = "raise the limit of what is between, such as a proxy, to 16 MiB"
                return Finding(name, "warn", f"a request of 1 MiB does not get through: {error}", mend)
        return Finding(name, "ok", "a request of 1 MiB gets through")


def check_generation(client: Client, *, timeout: float, on_start: Callable[[Callable[[], None]], None]) -> Finding:
    """Make a small video and read its frames.

    Args:
        client: of the server.
        timeout: seconds it may take, the time in the queue included.
        on_start: told how to end it early.
    """
    name = "generation"
    began = time.monotonic()
    first = 0.0
    count = 0
    try:
        model = client.info().model()
        if model is None:
            return Finding(name, "fail", "there is no model yet", _LOOK_AT_RANKS)
        words = model.vocabulary[: min(3, model.max_prompt_words or 3)]
        video = client.generate(
            " ".join(words) or "a red ball",
            frames=min(_FRAMES, model.max_frame_count),
            width=model.min_width,
            height=model.min_height,
            steps=_STEPS,
            seed=1,
            deadline=timeout,
            lease=_LEASE,
            labels={"made-by": "vinf-doctor"},
        )
        on_start(video.close)
        with video:
            for _ in video:
                first = first or time.monotonic() - began
                count += 1
        seconds = time.monotonic() - began
        with suppress(VinfError):  # it is forgotten in time anyway
            client.delete(video.generation_id)
    except GenerationFailedError as error:
        if error.reason == "JOB_DEADLINE":
            mend = "look at the queue with vinf top, or allow more with --timeout"
            return Finding(name, "warn", f"not done within {timeout:g} s", mend)
        return Finding(name, "fail", f"it failed: {error}", "look at the logs of the ranks")
    except VinfError as error:
        return Finding(name, "fail", str(error), "look at the server's log")
    text = f"{count} frames of {video.width} x {video.height} in {seconds:.1f} s, the first after {first:.1f} s"
    return Finding(name, "ok", text)


def _check_version(info: info_pb.ServerInfo) -> Finding:
    try:
        ours = version("vinf")
    except PackageNotFoundError:  # run from a source tree that is not installed
        ours = "unknown"
    text = f"client {ours}, server {info.version}, interface {info.api_version}"
    if info.api_version != _API_VERSION:
        mend = "install the client of the server's version"
        return Finding("version", "fail", f"{text}; this client speaks {_API_VERSION}", mend)
    if ours.split(".")[:2] != info.version.split(".")[:2]:
        return Finding("version", "warn", text, "use the same version on both sides; before 1.0 minor ones may differ")
    return Finding("version", "ok", text)


def _check_clock(info: info_pb.ServerInfo) -> Finding:
    apart = info.server_time.ToDatetime(tzinfo=UTC) - datetime.now(UTC)
    seconds = apart.total_seconds()
    if abs(seconds) > _CLOCKS_APART:
        words = "ahead of" if seconds > 0 else "behind"
        mend = "set the clocks; dates of tokens, certificates and deadlines go by the server's"
        return Finding("clock", "warn", f"the server's is {abs(seconds):.0f} s {words} ours", mend)
    return Finding("clock", "ok", f"{abs(seconds):.1f} s apart")


def _check_limits(info: info_pb.ServerInfo) -> Finding:
    limits = info.limits
    told = [f"{info.waiting_generation_count} of at most {limits.max_waiting_generation_count} waiting"]
    if limits.max_waiting_per_client:
        told.append(f"{limits.max_waiting_per_client} of one client")
    if limits.max_creates_per_minute:
        told.append(f"{limits.max_creates_per_minute} new ones a minute")
    if limits.rank_memory_budget_bytes:
        told.append(f"{limits.rank_memory_budget_bytes / 2**30:.1f} GiB a rank")
    if limits.disk_budget_bytes:
        told.append(f"{limits.disk_budget_bytes / 2**30:.0f} GiB of disk")
    if info.waiting_generation_count >= limits.max_waiting_generation_count > 0:
        return Finding("limits", "warn", ", ".join(told), "the queue is full; wait, or cancel what is not needed")
    return Finding("limits", "ok", ", ".join(told))


def _check_ranks(info: info_pb.ServerInfo) -> Finding:
    up = [rank for rank in info.ranks if rank.device]
    devices = ", ".join(dict.fromkeys(f"{rank.device} ({rank.device_name})" for rank in up))
    text = f"{len(up)} of {len(info.ranks)} up: {devices}" if up else "none is up"
    if not info.ready or not up:
        return Finding("ranks", "fail", text, _LOOK_AT_RANKS)
    if len(up) < len(info.ranks):
        return Finding("ranks", "warn", text, _LOOK_AT_RANKS)
    return Finding("ranks", "ok", text)
