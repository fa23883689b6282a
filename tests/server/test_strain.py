"""A greedy client, and a front that may open next to no files."""

from __future__ import annotations

import hashlib
import socket
from contextlib import ExitStack

import grpc
import psutil
import pytest

from tests.server.conftest import QUICK_AGENT, wait_until
from tests.server.test_serve import RPC_TIMEOUT_S, Client
from vinf.v1 import generation_pb2
from vinf.v1 import video_generation_service_pb2 as v1

pytestmark = pytest.mark.process

SUCCEEDED = generation_pb2.GENERATION_STATE_SUCCEEDED
REQUEST = v1.CreateGenerationRequest(spec=generation_pb2.GenerationSpec(prompt="a red circle", frame_count=4))


def test_case_45_only_the_greedy_client_is_limited(front_process, tmp_path):
    """A thousand creates as fast as they go; meanwhile every call of another client is answered."""
    names = ("greedy", "modest")
    tokens = tmp_path / "tokens"
    tokens.write_text("".join(f"{name} {hashlib.sha256(token(name).encode()).hexdigest()}\n" for name in names))
    front = front_process(*QUICK_AGENT, "--tokens", str(tokens), "--max-creates-per-minute", "30")
    ready = front.wait_ready()
    greedy, modest = Client(ready), Client(ready)
    call = {"metadata": bearer("greedy"), "timeout": RPC_TIMEOUT_S}
    flood = [greedy.video.CreateGeneration.future(REQUEST, **call) for _ in range(1000)]
    made = []
    while not made or (len(made) < 20 and not all(reply.done() for reply in flood)):
        reply = modest.video.CreateGeneration(REQUEST, metadata=bearer("modest"), timeout=RPC_TIMEOUT_S)
        made.append(reply.generation.generation_id)
    codes = [reply.code() for reply in flood]
    assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert 30 <= codes.count(grpc.StatusCode.OK) <= 45, "the limit, and what a slow machine lets through meanwhile"
    refused = next(reply for reply in flood if reply.code() is grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert int(dict(refused.trailing_metadata())["grpc-retry-pushback-ms"]) > 0
    for generation_id in made:
        request = v1.WatchGenerationRequest(generation_id=generation_id)
        *_, last = modest.video.WatchGeneration(request, metadata=bearer("modest"), timeout=RPC_TIMEOUT_S)
        assert last.generation.state == SUCCEEDED
    for client in (greedy, modest):
        client.channel.close()


def token(name):
    return f"vinf_of-{name}"


def bearer(name):
    return (("authorization", f"Bearer {token(name)}"),)


def test_case_65_no_more_files_and_then_some_again(front_process):
    """More connections than the front may have files: those beyond wait, and it goes on when some are closed."""
    front = front_process(*QUICK_AGENT, prefix=("sh", "-c", 'ulimit -n 64; exec "$@"', "sh"))
    ready = front.wait_ready()
    host, _, port = ready["listen"].rpartition(":")
    process = psutil.Process(front.process.pid)
    first = Client(ready)
    assert first.watch(first.create(seed=1))[-1].state == SUCCEEDED
    with ExitStack() as crowd:
        for _ in range(100):
            crowd.enter_context(socket.create_connection((host, int(port)), timeout=RPC_TIMEOUT_S))
        wait_until(lambda: process.num_fds() >= 60, what="the front uses all its files")
        assert first.info().ready, "who is inside is served"
    second = Client(ready)
    wait_until(lambda: second.info().ready, what="a new client is served")
    assert second.watch(second.create(seed=2))[-1].state == SUCCEEDED
    assert len(front.stderr) < 20_000, front.stderr[-2000:]
    for client in (first, second):
        client.channel.close()
