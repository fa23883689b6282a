"""People who generate videos all the time, each in another way, over a bad network."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration

from tests.chaos.api import RPC_TIMEOUT_S, TERMINAL, Api, is_passing, v1
from tests.chaos.history import GenerationLog, History, ReaderLog
from tests.chaos.readers import Reading
from tests.chaos.specs import SPECS
from vinf_client import Client as SdkClient
from vinf_client import ClientClosedError, TransportError, VinfError

Reply = TypeVar("Reply")

_SHORT_LEASE = Duration(seconds=5)

_PATIENT_ATTEMPTS = 100
"""In a row: a front that starts anew is away for longer than the SDK waits by itself."""


class Person:
    """One client, with one generation in hand at a time."""

    def __init__(self, name: str, address: str, history: History, *, seed: int, specs: Sequence[str]) -> None:
        """Begin a life.

        Args:
            name: of this one.
            address: of the server, or of what stands before it.
            history: where to write down everything that arrives.
            seed: of all decisions.
            specs: names of the videos to ask for.
        """
        self.name = name
        self._address = address
        self._api = Api(address)
        self._history = history
        self._rng = random.Random(f"{name} {seed}")
        self.statuses: Counter[str] = Counter()
        self._reading = Reading(history, self._rng, self.statuses)
        self._specs = specs
        self._habits: list[Callable[[], Awaitable[None]]] = [
            *(self._follows, self._dawdles, self._hops, self._changes_mind, self._comes_back_later),
            *(self._shows_it_to_friends, self._watches, self._uses_the_sdk, self._walks_away, self._pulls),
            self._tidies_up,
        ]
        self.habits: Counter[str] = Counter()

    async def live(self, stop: asyncio.Event) -> None:
        """Generate until told to stop; what is in hand then is read to its end."""
        while not stop.is_set():
            habit = self._rng.choice(self._habits)
            self.habits[habit.__name__.strip("_")] += 1
            await habit()

    async def close(self) -> None:
        """Hang up."""
        await self._api.close()

    # ---- habits ----

    async def _follows(self) -> None:
        await self._follow(await self._create())

    async def _dawdles(self) -> None:
        await self._follow(await self._create(), dawdles=True)

    async def _hops(self) -> None:
        await self._hop(await self._create())

    async def _pulls(self) -> None:
        generation_id = await self._create()
        await self._reading.pull(self._api, self._history.reader(self.name, generation_id))

    async def _walks_away(self) -> None:
        """Leaves a generation in the queue or half read; nobody asks for it again."""
        generation_id = await self._create(lease=_SHORT_LEASE)
        self._history.generations[generation_id].abandoned = True
        log = self._history.reader(self.name, generation_id, follows=False)
        await self._reading.stream(self._api, log, 0, leave_after=self._rng.randint(0, 3), patience_s=4)

    async def _tidies_up(self) -> None:
        """Reads a video and has the server forget it."""
        generation_id = await self._create()
        await self._follow(generation_id)
        log = self._history.generations[generation_id]
        log.final, log.end_time = await self._insist(lambda: self._api.get(generation_id)), time.monotonic()
        try:
            await self._insist(lambda: self._api.delete(generation_id))
        except grpc.aio.AioRpcError as error:
            # The reply to an earlier try was lost.
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
        log.deleted = True

    async def _changes_mind(self) -> None:
        """Cancels, at any time from the queue to the last frame."""
        generation_id = await self._create()
        reading = asyncio.create_task(self._follow(generation_id))
        await asyncio.wait({reading}, timeout=self._rng.choice((0.0, 0.3, 1.0, 3.0, 8.0)))
        self._history.generations[generation_id].cancelled = True
        await self._insist(lambda: self._api.cancel(generation_id))
        await reading

    async def _comes_back_later(self) -> None:
        """Leaves a detached generation alone and reads it over a new connection."""
        generation_id = await self._create(detached=True)
        await asyncio.sleep(self._rng.uniform(0.5, 8.0))
        later = Api(self._address)
        try:
            await self._reading.follow(later, self._history.reader(self.name, generation_id))
        finally:
            await later.close()

    async def _shows_it_to_friends(self) -> None:
        generation_id = await self._create()
        await asyncio.gather(
            self._follow(generation_id), self._follow(generation_id, dawdles=True), self._hop(generation_id)
        )

    async def _watches(self) -> None:
        generation_id = await self._create()
        await asyncio.gather(self._follow(generation_id), self._watch(generation_id))

    async def _uses_the_sdk(self) -> None:
        log = self._history.reader(self.name, await self._create())
        # Closed out here, so that the thread ends when this task is cancelled, whatever became of the server.
        with SdkClient(self._address, resume_attempts=_PATIENT_ATTEMPTS) as client:
            await asyncio.to_thread(self._read_with_sdk, client, log)

    # ---- inside ----

    async def _create(self, *, detached: bool = False, lease: Duration | None = None) -> str:
        """Ask until there is an answer, always under the same request_id."""
        name = self._rng.choice(self._specs)
        log = GenerationLog(self.name, name, submit_time=time.monotonic())
        request = v1.CreateGenerationRequest(
            request_id=str(uuid.uuid4()), spec=SPECS[name], detached=detached, lease_duration=lease
        )
        reply = await self._insist(lambda: self._api.video.CreateGeneration(request, timeout=RPC_TIMEOUT_S))
        generation_id: str = reply.generation.generation_id
        if generation_id in self._history.generations:
            self._history.complaints.append(f"{self.name}: two generations are called {generation_id}")
        self._history.created(generation_id, log)
        return generation_id

    async def _insist(self, call: Callable[[], Awaitable[Reply]]) -> Reply:
        while True:
            try:
                return await call()
            except grpc.aio.AioRpcError as error:
                if not is_passing(error):
                    raise
                self.statuses[error.code().name] += 1
                await asyncio.sleep(self._rng.uniform(0.1, 1.0))

    async def _follow(self, generation_id: str, *, dawdles: bool = False) -> None:
        log = self._history.reader(self.name, generation_id)
        await self._reading.follow(self._api, log, dawdles=dawdles)

    async def _hop(self, generation_id: str) -> None:
        frame_count = SPECS[self._history.generations[generation_id].spec].frame_count
        log = self._history.reader(self.name, generation_id, follows=False)
        await self._reading.hop(self._api, log, frame_count)

    async def _watch(self, generation_id: str) -> None:
        """Watch to the end; the changes of state must come once each, none left out."""
        sequence, state = 0, 0
        while state not in TERMINAL:
            call = self._api.video.WatchGeneration(
                v1.WatchGenerationRequest(generation_id=generation_id, after_sequence=sequence)
            )
            try:
                while (message := await call.read()) is not grpc.aio.EOF:
                    state = message.generation.state
                    came = [event.sequence for event in message.events]
                    if came != list(range(sequence + 1, sequence + 1 + len(came))):
                        self._history.complaints.append(
                            f"{self.name}, {generation_id}: events {came} came after event {sequence}"
                        )
                    sequence = max([sequence, *came])
            except grpc.aio.AioRpcError as error:
                if not is_passing(error):
                    self._history.complaints.append(f"{self.name}: watching broke: {error.code().name}")
                    return
                self.statuses[error.code().name] += 1
            finally:
                call.cancel()
            await asyncio.sleep(self._rng.uniform(0.05, 0.5))

    def _read_with_sdk(self, client: SdkClient, log: ReaderLog) -> None:
        """Run in a thread: the SDK resumes by itself, but for the first connection."""
        stream = log.open(0)
        try:
            while True:
                try:
                    handle = client.attach(log.generation_id)
                    break
                except TransportError:
                    time.sleep(0.2)  # a thread of its own: nobody else waits
            for index, frame in enumerate(handle.frames()):
                self._history.received(stream, index, frame.data)
            stream.ended, stream.end_next = "end", log.following
        except ClientClosedError:
            stream.ended = "left"
        except VinfError as error:
            self._history.complaints.append(f"{self.name}, {log.generation_id}: the SDK gave up: {error}")
