"""A few thousand mutated requests against a real server; `make fuzz` sends a hundred thousand."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.chaos.api import reason_of
from tests.chaos.front import SCRIPTED_RANKS, ChaosFront
from tests.chaos.fuzz import fuzz, is_documented
from tests.chaos.mutate import Mutator
from tests.chaos.rpcs import public_rpcs

pytestmark = pytest.mark.process


@pytest.fixture
def scripted_front():
    front = ChaosFront(*SCRIPTED_RANKS)
    front.start()
    yield front
    front.end_everything()
    front.remove()


def test_mutated_requests_get_documented_answers_and_do_no_harm(scripted_front):
    async def run():
        await scripted_front.wait_ready()
        return await fuzz(scripted_front, requests=6_000, seed=7)

    report = asyncio.run(run())
    assert report.violations == [], str(report)
    assert report.created > 50
    assert sum(sum(counts.values()) for counts in report.statuses.values()) == 6_000
    for name, counts in report.statuses.items():
        assert len(counts) >= 2, f"{name}: always the same answer, {counts}"


def test_a_request_that_gets_an_undocumented_answer_is_made_small(scripted_front):
    """The same mutations with chance from hypothesis: a failure comes with its smallest request."""
    rpcs = [rpc for rpc in public_rpcs() if rpc.name != "PullFrames"]
    asyncio.run(scripted_front.wait_ready())
    channel = grpc.insecure_channel(scripted_front.address)

    # Every example speaks to the same server, and it keeps what they do to it.
    @settings(max_examples=300, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(chance=st.randoms(use_true_random=False), rpc=st.sampled_from(rpcs))
    def ask(chance, rpc):
        data = Mutator(chance).request(rpc.request)
        code, reason, details = answer(channel, rpc, data)
        assert code == "OK" or is_documented(rpc, code, reason, len(data)), (
            rpc.path,
            code,
            reason,
            details,
            data.hex(),
        )

    ask()
    channel.close()


def answer(channel, rpc, data):
    """Status, reason word and message of one call; of a stream its first reply."""
    make = channel.unary_stream if rpc.streams else channel.unary_unary
    call = make(rpc.path, request_serializer=None, response_deserializer=None)
    try:
        if rpc.streams:
            stream = call(data, timeout=30)
            next(stream)
            stream.cancel()
        else:
            call(data, timeout=30)
    except grpc.RpcError as error:
        return error.code().name, reason_of(error), error.details()
    return "OK", "", ""
