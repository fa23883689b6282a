"""Mutated requests against a real server: `python -m tests.chaos.fuzz --requests 100000`.

Every public RPC gets right messages with spoiled fields and spoiled bytes. The server must answer each with a
documented status, stay alive, keep its memory and its log small, and afterwards make the same video as before.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import sys
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import grpc

from tests.chaos.api import Api, reason_of, v1
from tests.chaos.front import SCRIPTED_RANKS, ChaosFront, run_to_the_end
from tests.chaos.mutate import Mutator
from tests.chaos.resources import Resources, look
from tests.chaos.rpcs import Rpc, public_rpcs
from tests.server.fakes import frame_bytes
from vinf.v1 import generation_pb2

CONCURRENT = 16
"""Calls under way at a time."""

_PARTS = 10
"""Memory is measured after each."""

_WARM_PART = 4
"""The first half of the requests fills pools, caches and allocators."""

MAX_GROWTH_BYTES = 16 << 20
"""Of the front's resident memory in the second half of the requests, cached frames left out.

A hundred thousand requests make it grow by 8 MiB, not all of which is explained: see docs/reliability.md."""

KEPT_GENERATIONS = 64
"""That requests made by chance: the older ones are deleted, since a server remembers what it is not told to forget."""

MAX_LOG_LINES_PER_THOUSAND = 200
"""Of requests. Generations that come and go may be logged, bad requests may not."""

MAX_REQUEST_BYTES = 16 << 20
"""The server's limit for a message; a larger one is refused by gRPC itself."""

OVERSIZED_EVERY = 4_999
"""No multiple of the number of RPCs, so that each of them gets some."""

FRONT_ARGUMENTS = ("--max-creates-per-minute", "1200")
"""So that requests made by chance come through for the most part, and are limited now and then."""

_PATIENCE_S = 0.05
"""For a stream, or a reply that may wait for a frame: then the client goes away."""

_TIMEOUT_S = 60.0
"""For every other reply: one that takes longer hangs."""

_WAITS = {"PullFrames"}
_ENDS_SOMETHING = {"CancelGeneration", "DeleteGeneration"}
_CANARY_SEED, _CANARY_FRAMES = 77, 16


@dataclass(slots=True)
class FuzzReport:
    """What came of it."""

    seed: int
    requests: int = 0
    seconds: float = 0.0
    statuses: dict[str, dict[str, int]] = field(default_factory=dict)
    """By RPC: how often each status and reason came."""

    created: int = 0
    """Generations that requests made by chance."""

    resources: list[Resources] = field(default_factory=list)
    """Of the front, after each tenth of the requests."""

    log_lines: int = 0
    violations: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        rate = self.requests / max(self.seconds, 1e-9)
        lines = [
            f"{self.requests} requests in {self.seconds:.0f} s ({rate:.0f} a second), seed {self.seed}",
            f"  {self.created} of them made a generation; {self.log_lines} lines of log",
            "  resident memory of the front, in it cached frames, after each tenth in MiB: "
            + ", ".join(f"{at.resident_bytes / 2**20:.1f} {at.cached_bytes / 2**20:.1f}" for at in self.resources),
        ]
        for name, statuses in sorted(self.statuses.items()):
            counts = ", ".join(f"{status} {count}" for status, count in sorted(statuses.items(), key=lambda s: -s[1]))
            lines.append(f"  {name}: {counts}")
        return "\n".join([*lines, *(f"VIOLATION: {text}" for text in self.violations)])


async def fuzz(front: ChaosFront, *, requests: int, seed: int) -> FuzzReport:
    """Send the requests to a front with scripted ranks that is up."""
    api = Api(front.address)
    try:
        return await _Fuzzer(front, api, seed).run(requests)
    finally:
        await api.close()


class _Fuzzer:
    def __init__(self, front: ChaosFront, api: Api, seed: int) -> None:
        self._front = front
        self._api = api
        self._mutator = Mutator(random.Random(f"mutations {seed}"))
        self._report = FuzzReport(seed)
        self._counts: dict[str, Counter[str]] = {}
        self._left = 0
        self._finished: list[str] = []
        """Generations with frames to read."""

        self._disposable: deque[str] = deque()
        self._calls: list[tuple[Rpc, Callable[..., grpc.aio.Call]]] = [
            (rpc, self._method(rpc)) for rpc in public_rpcs()
        ]

    async def run(self, requests: int) -> FuzzReport:
        pid, report = self._front.pid, self._report
        self._finished = [await self._make_canary() for _ in range(3)]
        holder = await self._hold_the_group()
        lines_before, began = self._log_lines(), time.monotonic()
        for part in range(_PARTS):
            await self._send(requests * (part + 1) // _PARTS - requests * part // _PARTS)
            if not self._front.has_exited:
                report.resources.append(look(self._front))
        report.seconds, report.requests = time.monotonic() - began, requests
        report.statuses = {name: dict(counts) for name, counts in self._counts.items()}
        if self._front.has_exited or self._front.pid != pid:
            report.violations.append(f"the front has died:\n{self._front.log()[-4000:]}")
            return report
        report.log_lines = self._log_lines() - lines_before
        self._check_growth()
        await self._api.cancel(holder)
        await self._make_canary()
        return report

    async def _send(self, requests: int) -> None:
        self._left = requests
        await asyncio.gather(*(self._worker() for _ in range(CONCURRENT)))

    async def _worker(self) -> None:
        while self._left > 0:
            number = self._left
            self._left -= 1
            rpc, call = self._calls[number % len(self._calls)]
            if number % OVERSIZED_EVERY == 0:
                data = bytes(MAX_REQUEST_BYTES + 1)
            else:
                ends_something = rpc.name in _ENDS_SOMETHING
                known = [*self._disposable, *(() if ends_something else self._finished)]
                data = self._mutator.request(rpc.request, known)
            status, reply = await self._ask(rpc, call, data)
            self._counts.setdefault(rpc.name, Counter())[status] += 1
            if rpc.name == "CreateGeneration" and reply:
                await self._end(v1.CreateGenerationResponse.FromString(reply).generation.generation_id)
            elif rpc.name == "DeleteGeneration" and status == "OK":
                with contextlib.suppress(ValueError):
                    self._disposable.remove(v1.DeleteGenerationRequest.FromString(data).generation_id)

    async def _ask(self, rpc: Rpc, method: Callable[..., grpc.aio.Call], data: bytes) -> tuple[str, bytes]:
        """Make one call; returns "CODE" or "CODE / REASON", and the reply to a unary one."""
        call = method(data, metadata=self._mutator.metadata())
        try:
            if rpc.streams:
                # To the end, where one comes: gRPC itself loses some bytes for every stream that is cut off.
                while await asyncio.wait_for(call.read(), _PATIENCE_S) is not grpc.aio.EOF:
                    pass
                return "OK", b""
            return "OK", await asyncio.wait_for(call, _PATIENCE_S if rpc.name in _WAITS else _TIMEOUT_S)
        except TimeoutError:
            if rpc.streams or rpc.name in _WAITS:
                return "left", b""
            self._violation(rpc, data, f"no reply within {_TIMEOUT_S:g} s")
            return "hangs", b""
        except grpc.aio.AioRpcError as error:
            code, reason = error.code().name, reason_of(error)
            if not is_documented(rpc, code, reason, len(data)):
                self._violation(rpc, data, f"{code} / {reason or 'no reason'}: {error.details()}")
            return f"{code} / {reason}" if reason else code, b""
        finally:
            call.cancel()

    def _violation(self, rpc: Rpc, data: bytes, problem: str) -> None:
        shown = data[:200].hex() + ("..." if len(data) > 200 else "")
        if len(self._report.violations) < 50:
            self._report.violations.append(f"{rpc.path}: {problem}; request {shown}")

    async def _end(self, generation_id: str) -> None:
        """Take back what a request made by chance; a validate_only one made nothing."""
        if generation_id:
            self._report.created += 1
            self._disposable.append(generation_id)
            await self._api.cancel(generation_id)
            if len(self._disposable) > KEPT_GENERATIONS:
                with contextlib.suppress(grpc.aio.AioRpcError):  # a request may have deleted it already
                    await self._api.delete(self._disposable.popleft())

    async def _hold_the_group(self) -> str:
        """Keep the ranks busy, so that what is created by chance waits until it is cancelled and makes no frames."""
        spec = generation_pb2.GenerationSpec(prompt="a slow red circle")
        request = v1.CreateGenerationRequest(spec=spec, detached=True)
        request.priority.value = 9
        return await self._create(request)

    async def _make_canary(self) -> str:
        """Generate a video whose bytes are known; returns its id."""
        spec = generation_pb2.GenerationSpec(
            prompt="a red circle", seed=_CANARY_SEED, frame_count=_CANARY_FRAMES, width=64, height=64
        )
        generation_id = await self._create(v1.CreateGenerationRequest(spec=spec, detached=True))
        stream = self._api.video.StreamFrames(v1.StreamFramesRequest(generation_id=generation_id), timeout=_TIMEOUT_S)
        frames = [message.frame.data async for message in stream if message.WhichOneof("payload") == "frame"]
        wanted = [frame_bytes(_CANARY_SEED, index, 64 * 64 * 3) for index in range(_CANARY_FRAMES)]
        if frames != wanted:
            self._report.violations.append(f"canary {generation_id} is another video than it should be")
        return generation_id

    async def _create(self, request: v1.CreateGenerationRequest) -> str:
        """Insist: creations of the fuzzer may have used up what a client gets in a minute."""
        while True:
            try:
                return str((await self._api.video.CreateGeneration(request)).generation.generation_id)
            except grpc.aio.AioRpcError as error:
                if reason_of(error) not in ("CLIENT_LIMIT", "QUEUE_FULL"):
                    raise
                await asyncio.sleep(1)

    def _check_growth(self) -> None:
        report = self._report
        growth = report.resources[-1].lasting_bytes - report.resources[_WARM_PART].lasting_bytes
        if growth > MAX_GROWTH_BYTES:
            report.violations.append(f"resident memory grew by {growth} bytes, allowed are {MAX_GROWTH_BYTES}")
        allowed_lines = max(100, MAX_LOG_LINES_PER_THOUSAND * report.requests / 1000)
        if report.log_lines > allowed_lines:
            report.violations.append(f"{report.log_lines} lines of log, allowed are {allowed_lines:.0f}")
        if "Traceback" in self._front.log():
            report.violations.append("there is a traceback in the log")

    def _log_lines(self) -> int:
        return self._front.log().count("\n")

    def _method(self, rpc: Rpc) -> Callable[..., grpc.aio.Call]:
        make = self._api.channel.unary_stream if rpc.streams else self._api.channel.unary_unary
        return make(rpc.path, request_serializer=None, response_deserializer=None)


def is_documented(rpc: Rpc, code: str, reason: str, request_bytes: int) -> bool:
    """Whether the contract says that an RPC may answer a request of that size so."""
    if code == "RESOURCE_EXHAUSTED" and not reason:
        return request_bytes > MAX_REQUEST_BYTES
    return (code, reason) in rpc.errors


def main(argv: list[str] | None = None) -> int:
    """Start a server, send the requests, print the report; returns 1 where anything was violated."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=100_000, metavar="N")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="write the report there as well")
    arguments = parser.parse_args(argv)
    report = run_to_the_end(_with_front(lambda front: fuzz(front, requests=arguments.requests, seed=arguments.seed)))
    print(report)
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(asdict(report), indent=1) + "\n")
    return bool(report.violations)


async def _with_front(work: Callable[[ChaosFront], Awaitable[FuzzReport]]) -> FuzzReport:
    front = ChaosFront(*SCRIPTED_RANKS, *FRONT_ARGUMENTS)
    try:
        front.start()
        await front.wait_ready()
        return await work(front)
    finally:
        front.end_everything()
        front.remove()


if __name__ == "__main__":
    sys.exit(main())
