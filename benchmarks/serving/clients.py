"""`vinf bench clients`: how old frames are that a slow reader sees, and how fast the SDKs are beside bare gRPC.

A plain stream runs ahead of a reader that is slower than the video: what lies in its buffers grows old. Clients that
pull take what is newest when they ask. Throughput is taken beside a stream of the same bytes from a server of the same
kind (gRPC's asyncio stack, one message a frame) without this project's protocol.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import grpc

from benchmarks.report import Report, Value, say
from benchmarks.serving.child import child
from benchmarks.serving.server import Live, Served, Size, serve
from benchmarks.settings import ClientsSettings
from benchmarks.timing import Spread, ratio
from benchmarks.worlds import RankFailedError
from vinf.v1 import video_generation_service_pb2 as service_pb2
from vinf.v1.video_generation_service_pb2_grpc import VideoGenerationServiceStub
from vinf_client import Client, GenerationHandle

PICTURES: tuple[tuple[int, int, str, int], ...] = ((512, 320, "rgb24", 3), (1280, 720, "bgra8", 4))
"""Width, height, format and bytes a pixel of what is read at full speed."""

LIVE_SIZE = (256, 128)
"""About 100 kB a frame, as a JPEG picture of a larger one has."""

_PIXELS = {"rgb24": 1, "bgra8": 3}
"""Numbers of the contract's PixelFormat."""

PRODUCED, CONSUMED = 48.0, 12.0
"""Frames a second that are made, and that are looked at."""

_BARE = "/bare/Stream"
_LARGEST_BYTES = 64 << 20
_CPP_TIMEOUT_S = 300
_UNLIMITED = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))


@dataclass(frozen=True, slots=True)
class _Bench:
    server: Connection
    served: Served
    settings: ClientsSettings

    def make(self) -> str:
        """Begin a live video; return its id."""
        frames = int(self.settings.seconds * PRODUCED)
        self.server.send(Live((*LIVE_SIZE, frames), PRODUCED))
        generation_id: str = self.server.recv()
        return generation_id


def run(settings: ClientsSettings) -> list[Report]:
    """Measure ages and throughputs."""
    sizes: tuple[Size, ...] = tuple((width, height, settings.frames) for width, height, _, _ in PICTURES)
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="vinf-bench-"))
        say(f"writing two videos of {settings.frames} frames")
        _, pipe = stack.enter_context(child(serve, folder, sizes))
        bench = _Bench(pipe, pipe.recv(), settings)
        bare = stack.enter_context(_bare_server())
        client = stack.enter_context(Client(bench.served.address, tls=False, token=""))
        return [_ages(bench, client), _throughputs(bench, client, bare)]


# ---- how old ----


def _ages(bench: _Bench, client: Client) -> Report:
    address = bench.served.address
    contenders: dict[str, Callable[[str], _Ages]] = {
        "plain stream": lambda generation_id: _ages_of(_plain_ages(address, generation_id)),
        "Python, latency low": lambda generation_id: _ages_of(_low_latency_ages(client.attach(generation_id))),
        "Python, puller": lambda generation_id: _ages_of(_puller_ages(client.attach(generation_id))),
    }
    if bench.settings.cpp:
        contenders["C++, latest"] = lambda generation_id: _cpp_ages(bench, generation_id)
    report = Report(title=f"age of a frame when it is looked at: {PRODUCED:g} made, {CONSUMED:g} seen a second")
    plain = 0.0
    for name, measure in contenders.items():
        say(name)
        ages = measure(bench.make())
        plain = plain or ages.median_ms
        row: dict[str, Value] = {
            "reader": name,
            "frames": ages.count,
            "p50 ms": ages.median_ms,
            "p95 ms": ages.p95_ms,
            "of the plain stream": ages.median_ms / plain,
        }
        report.rows.append(row)
    report.notes.append(f"one run of {bench.settings.seconds:g} s each; the aim is at most 0.02 of the plain stream")
    return report


@dataclass(frozen=True, slots=True)
class _Ages:
    count: int
    median_ms: float
    p95_ms: float


def _ages_of(samples: list[float]) -> _Ages:
    if len(samples) < 2:
        raise RankFailedError(f"{len(samples)} frames came")
    p95 = statistics.quantiles(samples, n=20, method="inclusive")[-1]
    return _Ages(len(samples), statistics.median(samples), p95)


def _cpp_ages(bench: _Bench, generation_id: str) -> _Ages:
    found = _run_cpp(bench, "--mode", "latest", "--generation", generation_id, "--fps", f"{CONSUMED:g}")
    return _Ages(found["frames"], found["age_ms_p50"], found["age_ms_p95"])


def _age_ms(generate_time_us: int) -> float:
    return time.time() * 1e3 - generate_time_us / 1e3


def _plain_ages(address: str, generation_id: str) -> list[float]:
    """A client without an SDK: it reads, shows, and reads on."""
    ages = []
    with grpc.insecure_channel(address) as channel:
        request = service_pb2.StreamFramesRequest(generation_id=generation_id, max_data_bytes=_LARGEST_BYTES)
        for message in VideoGenerationServiceStub(channel).StreamFrames(request):
            if message.HasField("frame"):
                ages.append(_age_ms(message.frame.generate_time_us))
                time.sleep(1 / CONSUMED)
    return ages


def _low_latency_ages(handle: GenerationHandle) -> list[float]:
    ages = []
    with closing(handle.frames(latency="low")) as frames:
        for frame in frames:
            ages.append(_age_ms(round(frame.generate_time.timestamp() * 1e6)))
            time.sleep(1 / CONSUMED)
    return ages


def _puller_ages(handle: GenerationHandle) -> list[float]:
    ages = []
    with handle.pull(latency="low") as puller:
        while not puller.ended:
            frame = puller.latest()
            if frame is not None:
                ages.append(_age_ms(round(frame.generate_time.timestamp() * 1e6)))
            time.sleep(1 / CONSUMED)
    return ages


# ---- how fast ----


def _throughputs(bench: _Bench, client: Client, bare: str) -> Report:
    report = Report(title="frames a second at full speed, beside a bare gRPC stream of the same bytes")
    for (width, height, name, depth), generation_id in zip(PICTURES, bench.served.videos, strict=True):
        say(f"{width} x {height} {name}")
        handle, size = client.attach(generation_id), width * height * depth
        contenders: dict[str, Callable[[], int]] = {
            "bare gRPC, Python": partial(_read_bare, bare, size, bench.settings.frames),
            "Python, frames": partial(_read_all, handle, name),
            "Python, puller": partial(_pull_all, handle, name),
        }
        samples: dict[str, list[float]] = {contender: [] for contender in contenders}
        cpp: dict[str, list[float]] = {"bare stub, C++": [], "C++, next": []}
        for turn in range(bench.settings.repeats + 1):  # the first one fills caches and does not count
            for contender, read in contenders.items():
                began = time.perf_counter()
                count = read()
                seconds = time.perf_counter() - began
                if count != bench.settings.frames:
                    raise RankFailedError(f"{contender}: {count} of {bench.settings.frames} frames came")
                if turn:
                    samples[contender].append(count / seconds)
            if bench.settings.cpp and turn:
                cpp["bare stub, C++"].append(_cpp_rate(bench, generation_id, "stream", name))
                cpp["C++, next"].append(_cpp_rate(bench, generation_id, "next", name))
        _add_rows(report, f"{width}x{height} {name}", samples, "bare gRPC, Python")
        if bench.settings.cpp:
            _add_rows(report, f"{width}x{height} {name}", cpp, "bare stub, C++")
    report.notes.append(f"{bench.settings.repeats} turns; ratios are taken within turns; the aim is 0.9")
    return report


def _add_rows(report: Report, picture: str, samples: dict[str, list[float]], baseline: str) -> None:
    for reader, rates in samples.items():
        row: dict[str, Value] = {
            "picture": picture,
            "reader": reader,
            "frames/s": Spread.of(rates),
            "of bare": ratio(rates, samples[baseline]) if reader != baseline else None,
        }
        report.rows.append(row)


def _read_all(handle: GenerationHandle, name: str) -> int:
    return len([None for _ in handle.frames(format=name)])


def _pull_all(handle: GenerationHandle, name: str) -> int:
    with handle.pull(format=name, capacity=8) as puller:
        count = 0
        while puller.next() is not None:
            count += 1
    return count


@contextmanager
def _bare_server() -> Iterator[str]:
    """A process of its own that streams so many messages of so many bytes."""
    with child(_serve_bare) as (_, pipe):
        yield pipe.recv()


def _serve_bare(pipe: Connection) -> None:
    asyncio.run(_serve_bare_until_closed(pipe))


async def _serve_bare_until_closed(pipe: Connection) -> None:
    async def stream(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> AsyncIterator[bytes]:
        size, count = map(int, request.split())
        message = bytes(size)
        for _ in range(count):
            yield message

    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_stream_rpc_method_handler(stream)
    service, method = _BARE.strip("/").split("/")
    server = grpc.aio.server(options=_UNLIMITED)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    pipe.send(f"127.0.0.1:{port}")
    with suppress(EOFError):
        await asyncio.get_running_loop().run_in_executor(None, pipe.recv)
    await server.stop(None)


def _read_bare(address: str, size: int, count: int) -> int:
    with grpc.insecure_channel(address, options=_UNLIMITED) as channel:
        stream: grpc.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(_BARE)
        return len([None for _ in stream(f"{size} {count}".encode())])


def _cpp_rate(bench: _Bench, generation_id: str, mode: str, name: str) -> float:
    """Frames a second through the SDK (`next`) or through a bare stub, one message a frame (`stream`)."""
    arguments = ["--mode", mode, "--generation", generation_id, "--pixels", str(_PIXELS[name])]
    if mode == "stream":
        arguments += ["--max-message", str(_LARGEST_BYTES)]
    return float(_run_cpp(bench, *arguments)["frames_per_s"])


def _run_cpp(bench: _Bench, *arguments: str) -> dict[str, Any]:
    """Run the C++ program; it prints one line of JSON."""
    done = subprocess.run(
        [bench.settings.cpp, *arguments, "--server", bench.served.address, "--json"],
        capture_output=True,
        text=True,
        timeout=_CPP_TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        raise RankFailedError(f"{bench.settings.cpp}: {done.stderr.strip() or f'exit code {done.returncode}'}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found
