"""A server under random faults, and what must hold afterwards: `python -m tests.chaos.run --minutes 5`.

First every video is made undisturbed, on the same number of ranks. Then people generate them all the time while ranks,
the agent and the front are killed and frozen and the network is spoiled. At last everything calms down, and everything
that anybody received is compared.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc

from tests.chaos.api import TERMINAL, Api, v1
from tests.chaos.checker import Reference, check, clips_of
from tests.chaos.clients import Person
from tests.chaos.faults import Trouble, find_recoveries
from tests.chaos.front import MAX_LOG_BYTES, PROCESSES_BESIDE_RANKS, ChaosFront, run_to_the_end
from tests.chaos.history import GenerationLog, History
from tests.chaos.proxy import Proxy, Weather
from tests.chaos.readers import Reading
from tests.chaos.report import ChaosReport
from tests.chaos.resources import leftovers, rested, settle
from tests.chaos.specs import SPECS
from tests.support.remains import shared_memory
from vinf.v1.generation_pb2 import GenerationState

CALM_S = 240.0
"""How long everything in hand may take to end once the last fault is over."""

_REPEATED_UNDISTURBED = 3
"""Readers of each undisturbed run: pools and caches are warm before the baseline is taken."""


@dataclass(frozen=True, slots=True)
class ChaosPlan:
    """What to do."""

    seconds: float
    seed: int
    ranks: int = 2
    people: int = 5
    specs: tuple[str, ...] = tuple(SPECS)
    restart_front: bool = True
    """Kill the front now and then; what it had must come back with the next one."""


async def run_chaos(plan: ChaosPlan) -> ChaosReport:
    """Do it on a server of its own."""
    shared_before = shared_memory()
    front = ChaosFront("--device", "cpu", "--ranks", str(plan.ranks), "--rank-weights", "even")
    try:
        front.start()
        await front.wait_ready()
        report = await _Chaos(plan, front).run()
        code = await asyncio.to_thread(front.stop)
        if code != 0:
            report.violations.append(f"the front ended with exit code {code}, not 0")
        report.violations.extend(leftovers(front, shared_before))
        report.violations.extend(_complaints_of_the_log(front.log(), report))
        if front.log_bytes > MAX_LOG_BYTES:
            report.violations.append(f"the log has {front.log_bytes} bytes")
        report.lives = front.lives
        return report
    finally:
        front.end_everything()
        front.remove()


class _Chaos:
    def __init__(self, plan: ChaosPlan, front: ChaosFront) -> None:
        self._plan = plan
        self._front = front
        self._history = History()
        self._proxy = Proxy(("127.0.0.1", front.port))

    async def run(self) -> ChaosReport:
        plan, began = self._plan, time.monotonic()
        references = await self._make_references()
        baseline = await rested(self._front, processes=plan.ranks + PROCESSES_BESIDE_RANKS)
        async with AsyncExitStack() as stack:
            await self._proxy.start()
            stack.push_async_callback(self._proxy.close)
            trouble = Trouble(self._front, self._proxy, self._history, seed=plan.seed, restart_front=plan.restart_front)
            stack.push_async_callback(trouble.close)
            people = [
                Person(f"person {number}", self._proxy.address, self._history, seed=plan.seed, specs=plan.specs)
                for number in range(plan.people)
            ]
            for person in people:
                stack.push_async_callback(person.close)
            await self._disturb(people, trouble)
            await self._note_ends(can_still_answer=not self._front.has_exited)
        now, excess = await settle(self._front, baseline)
        find_recoveries(trouble.done, self._history)
        verdict = check(self._history, references, trouble.loss_times)
        verdict.violations += excess
        if await self._make_references() != references:
            verdict.violations.append("undisturbed runs give other videos than before")
        return ChaosReport(
            seed=plan.seed,
            ranks=plan.ranks,
            seconds=time.monotonic() - began,
            faults=trouble.done,
            expected_losses=trouble.losses_in_the_log,
            verdict=verdict,
            generations=Counter(_end(log) for log in self._history.generations.values()),
            habits=sum((person.habits for person in people), Counter()),
            broken_calls=sum((person.statuses for person in people), Counter()),
            flood=trouble.flood_statuses,
            baseline=baseline,
            final=now,
        )

    async def _make_references(self) -> dict[str, Reference]:
        """Make every video once, undisturbed, and read it several times at once."""
        api, references = Api(self._front.address), {}
        try:
            for name in self._plan.specs:
                reply = await api.video.CreateGeneration(v1.CreateGenerationRequest(spec=SPECS[name], detached=True))
                quiet = History()
                quiet.created(reply.generation.generation_id, GenerationLog("reference", name, submit_time=0))
                reading = Reading(quiet, random.Random(0), Counter())
                logs = [quiet.reader("reference", reply.generation.generation_id) for _ in range(_REPEATED_UNDISTURBED)]
                await asyncio.gather(*(reading.follow(api, log) for log in logs))
                frames = tuple(quiet.contents[r.digest] for stream in logs[0].streams for r in stream.receipts)
                generation = await api.get(reply.generation.generation_id)
                if len(frames) != SPECS[name].frame_count:
                    raise RuntimeError(f"the undisturbed run of {name!r} gave {len(frames)} frames: {generation}")
                references[name] = Reference(frames, clips_of(generation))
        finally:
            await api.close()
        return references

    async def _disturb(self, people: Sequence[Person], trouble: Trouble) -> None:
        """Let everybody loose for the time of the plan, and then until what they have in hand has ended."""
        stop = asyncio.Event()
        troubles = [asyncio.create_task(trouble.processes(stop)), asyncio.create_task(trouble.network(stop))]
        lives = [asyncio.create_task(person.live(stop)) for person in people]
        await asyncio.wait({*troubles, *lives}, timeout=self._plan.seconds, return_when="FIRST_EXCEPTION")
        stop.set()
        await asyncio.gather(*troubles, return_exceptions=True)
        self._proxy.set_weather(Weather())
        _, waiting = await asyncio.wait(lives, timeout=CALM_S)
        for task in waiting:
            task.cancel()
            self._history.complaints.append(f"somebody still waits {CALM_S:g} s after the last fault")
        for result in await asyncio.gather(*troubles, *lives, return_exceptions=True):
            if isinstance(result, Exception):
                self._history.complaints.append(f"the run itself failed: {result!r}")

    async def _note_ends(self, *, can_still_answer: bool) -> None:
        """Ask for the last snapshot of every generation, past the proxy."""
        api, deadline = Api(self._front.address), time.monotonic() + CALM_S
        try:
            for generation_id, log in self._history.generations.items():
                while can_still_answer:
                    try:
                        final = await api.get(generation_id)
                        if log.deleted:
                            self._history.complaints.append(f"{generation_id} was deleted and is still there")
                        log.final = final
                    except grpc.aio.AioRpcError as error:
                        if error.code() is grpc.StatusCode.NOT_FOUND:
                            break
                    if (log.final is not None and log.final.state in TERMINAL) or time.monotonic() > deadline:
                        log.end_time = time.monotonic()
                        break
                    await asyncio.sleep(0.2)
        finally:
            await api.close()


def _end(log: GenerationLog) -> str:
    if log.final is None:
        return "forgotten"
    return GenerationState.Name(log.final.state).removeprefix("GENERATION_STATE_").lower()


def _complaints_of_the_log(text: str, report: ChaosReport) -> list[str]:
    """What a server may never write, and losses of the group that no fault explains."""
    found = []
    if "Traceback" in text or "unexpected error" in text:
        at = max(text.find("Traceback"), text.find("unexpected error"))
        found.append(f"an error in the log: {text[max(0, at - 500) : at + 3000]}")
    report.losses = text.count("the group was lost (")
    if report.losses > report.expected_losses:
        found.append(f"the group was lost {report.losses} times, faults explain {report.expected_losses}")
    return found


def main(argv: list[str] | None = None) -> int:
    """Run it, print the summary; returns 1 where anything was violated."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.run", description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=5.0, help="of disturbance; references and the end come on top")
    parser.add_argument("--seed", type=int, default=None, help="of an earlier run, to repeat its plan of faults")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--people", type=int, default=5, help="clients at a time")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="write the summary there as well")
    arguments = parser.parse_args(argv)
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(10**6)
    print(f"chaos: {arguments.minutes:g} min on {arguments.ranks} ranks, seed {seed}", flush=True)
    plan = ChaosPlan(arguments.minutes * 60, seed, ranks=arguments.ranks, people=arguments.people)
    report = run_to_the_end(run_chaos(plan))
    print(report)
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(report.as_dict(), indent=1) + "\n")
    return bool(report.violations)


if __name__ == "__main__":
    sys.exit(main())
