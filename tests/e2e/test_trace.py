"""What happened when, told by two real ranks: the flight recorder, spans at a collector, lines of JSON; one server."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from itertools import pairwise

import grpc
import pytest

from tests.support.collector import Collector, attributes, collector, plain
from tests.support.server import Server
from vinf.v1 import generation_pb2 as pb
from vinf.v1 import video_generation_service_pb2 as service_pb
from vinf.v1.video_generation_service_pb2_grpc import VideoGenerationServiceStub
from vinf_client import Client, Trace, TraceLane, TraceSpan

pytestmark = pytest.mark.process

PROMPT = "a red ball bouncing over the sea"
WANTED = {"frames": 16, "seed": 3, "steps": 6}
WAIT = 120.0

CALLER_TRACE, CALLER_SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CALLER = (("traceparent", f"00-{CALLER_TRACE}-{CALLER_SPAN}-01"),)


@pytest.fixture(scope="module")
def spans() -> Iterator[Collector]:
    with collector() as made:
        yield made


@pytest.fixture(scope="module")
def server(spans: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    telling = ("--log-format", "json", "--otlp-endpoint", f"http://{spans.address}")
    with Server(tmp_path_factory.mktemp("trace"), "--ranks", "2", "--device", "cpu", *telling) as made:
        yield made


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Client]:
    with Client(server.address, token="", tls=False) as made:
        yield made


@pytest.fixture(scope="module")
def generation_id(server: Server, client: Client) -> str:
    """One that has succeeded, and whose frames were read; made by a client that is traced itself."""
    spec = pb.GenerationSpec(prompt=PROMPT, frame_count=16, seed=3, inference_step_count=6)
    with grpc.insecure_channel(server.address) as channel:
        request = service_pb.CreateGenerationRequest(spec=spec, detached=True)
        reply = VideoGenerationServiceStub(channel).CreateGeneration(request, metadata=CALLER, timeout=20)
    handle = client.attach(reply.generation.generation_id)
    assert len(list(handle.frames())) == 16
    handle.wait(WAIT)
    return handle.generation_id


@pytest.fixture(scope="module")
def trace(client: Client, generation_id: str) -> Trace:
    return client.trace(generation_id)


def lane(trace: Trace, rank: int, name: str) -> list[TraceSpan]:
    return [span for span in trace.spans if span.rank == rank and span.lane.value == name]


def covered(spans: list[TraceSpan]) -> int:
    total = reached = 0
    for span in sorted(spans, key=lambda span: span.start_ns):
        total += max(0, span.end_ns - max(reached, span.start_ns))
        reached = max(reached, span.end_ns)
    return total


@pytest.mark.parametrize("rank", [0, 1])
def test_the_spans_of_a_rank_cover_the_time_of_the_generation(trace: Trace, rank: int) -> None:
    mine = [span for span in trace.spans if span.rank == rank]
    assert {span.epoch for span in mine} == {1}
    assert trace.left_out_count == 0
    (running,) = [span for span in trace.spans if span.name == "running"]
    assert min(span.start_ns for span in mine) >= running.start_ns
    assert max(span.end_ns for span in mine) <= running.end_ns
    assert covered(mine) >= 0.85 * (max(span.end_ns for span in mine) - min(span.start_ns for span in mine))
    assert [span.step for span in lane(trace, rank, "compute")] == [1, 2, 3, 4, 5, 6]
    frames = {frame for span in lane(trace, rank, "decode") for frame in span.frames}
    sent = {frame for span in lane(trace, rank, "deliver") for frame in span.frames}
    assert frames == sent, "what a rank decodes it sends"
    assert len(frames) == 8


@pytest.mark.parametrize("rank", [0, 1])
def test_lanes_of_the_engines_thread_do_not_overlap_and_nest_in_their_steps(trace: Trace, rank: int) -> None:
    for name in ("text", "compute", "communicate", "wait", "decode"):
        for before, after in pairwise(lane(trace, rank, name)):
            assert before.end_ns <= after.start_ns + 1000, (name, before, after)
    steps = {span.step: span for span in lane(trace, rank, "compute")}
    inner = [span for name in ("communicate", "transfer") for span in lane(trace, rank, name) if span.step]
    assert len(inner) > 6 * 10
    for span in inner:
        step = steps[span.step]
        assert step.start_ns <= span.start_ns + 1000
        assert span.end_ns <= step.end_ns + 1000


@pytest.mark.parametrize("rank", [0, 1])
def test_computing_communicating_and_waiting_add_up_to_a_step(trace: Trace, rank: int) -> None:
    """From the begin of a step to that of the next one there is nothing else but what a checkpoint takes."""
    steps, waits = lane(trace, rank, "compute"), lane(trace, rank, "wait") + lane(trace, rank, "checkpoint")
    for step, following in pairwise(steps):
        whole = following.start_ns - step.start_ns
        inner = [span for span in lane(trace, rank, "communicate") if span.step == step.step]
        communicating = sum(span.duration_ns for span in inner)
        # The short ones that have no span of their own are in the step's own sum.
        assert 0.8 * step.communicate_ns <= communicating <= step.communicate_ns + 1000
        computing = step.duration_ns - step.communicate_ns
        between = covered([span for span in waits if step.end_ns <= span.start_ns < following.start_ns])
        assert 0.85 * whole <= computing + step.communicate_ns + between <= 1.001 * whole


def test_an_exchange_is_hidden_as_far_as_computing_went_on(trace: Trace) -> None:
    for rank in (0, 1):
        transfers = lane(trace, rank, "transfer")
        assert all(0 < span.communicate_ns <= span.duration_ns + 1000 for span in transfers)
        share = trace.shares()[rank].hidden_share
        assert share is not None
        assert 0 < share < 1


def test_the_server_tells_its_part(trace: Trace) -> None:
    own = {span.name: span for span in trace.spans if span.rank is None}
    assert {"queued", "starting", "running", "frames stored", "stream"} <= set(own)
    assert own["queued"].end_ns == own["running"].start_ns == own["starting"].start_ns
    assert own["frames stored"].frames == range(16)
    assert own["stream"].lane is TraceLane.READ
    assert own["stream"].frames == range(16)
    decode = min(span.start_ns for span in trace.spans if span.lane is TraceLane.DECODE)
    assert own["frames stored"].start_ns > decode


def test_the_tree_of_a_generation_is_at_the_collector(spans: Collector, generation_id: str, client: Client) -> None:
    root = spans.wait_for("generation", generation_id=generation_id)
    create = spans.wait_for("vinf.v1.VideoGenerationService/CreateGeneration", generation_id=generation_id)
    assert {resource["service.name"] for resource in spans.resources} == {"vinf"}
    # The call is below the caller's span, the generation a trace of its own that is linked to the call.
    assert (create.trace_id.hex(), create.parent_span_id.hex()) == (CALLER_TRACE, CALLER_SPAN)
    assert root.parent_span_id == b""
    assert root.trace_id != create.trace_id
    assert [(link.trace_id, link.span_id) for link in root.links] == [(create.trace_id, create.span_id)]
    assert plain(root)["state"] == "SUCCEEDED"
    assert PROMPT not in str(root)
    spans.wait_for("deliver on a rank", rank=1, epoch=1)
    children = spans.children(root)
    assert [child.name for child in children] == ["queue", "text", "denoise", "decode", "deliver"]
    for child in children:
        assert root.start_time_unix_nano <= child.start_time_unix_nano <= child.end_time_unix_nano
        assert child.end_time_unix_nano <= root.end_time_unix_nano
    for child in children[1:]:
        shares = spans.children(child)
        assert [plain(share)["rank"] for share in sorted(shares, key=lambda share: plain(share)["rank"])] == [0, 1]
        for share in shares:
            assert share.name == f"{child.name} on a rank"
            assert child.start_time_unix_nano <= share.start_time_unix_nano <= share.end_time_unix_nano
            assert share.end_time_unix_nano <= child.end_time_unix_nano
    denoise = plain(spans.children(children[2])[0])
    assert denoise["step_count"] == 6
    assert 0 < denoise["communicate_seconds"] < denoise["busy_seconds"]


def test_calls_have_spans_with_their_status(spans: Collector, server: Server, generation_id: str) -> None:
    with grpc.insecure_channel(server.address) as channel:
        stub = VideoGenerationServiceStub(channel)
        with pytest.raises(grpc.RpcError):
            stub.GetGeneration(service_pb.GetGenerationRequest(generation_id="gen-2"), timeout=20)
        list(stub.StreamFrames(service_pb.StreamFramesRequest(generation_id=generation_id), timeout=20))
    lost = spans.wait_for("vinf.v1.VideoGenerationService/GetGeneration", generation_id="gen-2")
    assert attributes(lost) == {
        "rpc.system": "grpc",
        "rpc.service": "vinf.v1.VideoGenerationService",
        "rpc.method": "GetGeneration",
        "rpc.grpc.status_code": 5,
        "vinf.generation_id": "gen-2",
    }
    assert lost.kind == lost.SPAN_KIND_SERVER
    assert lost.status.code == 0, "the client's mistake is no error of the server"
    spans.wait_for("vinf.v1.VideoGenerationService/StreamFrames", generation_id=generation_id, rpc_grpc_status_code=0)
    named = [span for span in spans.spans if plain(span).get("generation_id") == generation_id]
    assert len(named) < 20, "no span a frame"


def test_after_a_lost_rank_the_trace_tells_of_both_launches(server: Server, client: Client, spans: Collector) -> None:
    pids = {rank.rank: rank.pid for rank in client.info().ranks}
    handle = client.submit(PROMPT, frames=16, seed=3, steps=30, detached=True)
    for _ in handle.updates():
        # While it is made the trace tells what was a moment ago.
        if pids and {0, 1} <= {span.rank for span in handle.trace().spans}:
            os.kill(pids[1], signal.SIGKILL)
            pids.clear()
    assert not pids
    handle.wait(WAIT)
    trace = handle.trace()
    for rank in (0, 1):
        assert {span.epoch for span in trace.spans if span.rank == rank} == {1, 2}
    states = [span.name for span in trace.spans if span.lane is TraceLane.STATE and span.name != "starting"]
    assert states == ["queued", "running", "queued", "running"]
    names = [e["args"]["name"] for e in trace.to_chrome()["traceEvents"] if e["name"] == "process_name"]
    assert names == ["server", *(f"rank {rank}, launch {launch}" for launch in (1, 2) for rank in (0, 1))]
    root = spans.wait_for("generation", generation_id=handle.generation_id)
    spans.wait_for("deliver on a rank", epoch=2, rank=1)
    assert [child.name for child in spans.children(root)].count("queue") == 2
    # A deleted one is gone with its trace.
    folder = server.folder / "data" / "spool" / handle.generation_id
    assert (folder / "trace").is_file()
    handle.delete()
    assert not folder.exists()


def test_every_line_is_json_also_of_the_ranks_that_died(server: Server, client: Client, generation_id: str) -> None:
    """Runs last: by now a rank was killed, and another group has taken over."""
    trace_ids = set()
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    for line in lines:
        assert {"timestamp", "level", "logger", "message"} <= line.keys()
        assert line["source"] == "front"
        if line.get("generation_id") == generation_id:
            trace_ids.add(line.get("trace_id"))
    assert trace_ids - {None, CALLER_TRACE}, "the lines of a generation name its trace"
    (lost,) = [line for line in lines if "the group was lost" in line["message"]]
    assert (lost["epoch"], lost["level"]) == (1, "ERROR")
    # What torch and the interpreter write into a rank's own log by themselves is no line of ours.
    for log in server.folder.glob("data/logs/*/*/attempt_*/*/stderr.log"):
        for text in log.read_text().splitlines():
            if "vinf_server" in text and not text.startswith((" ", "Traceback")):
                line = json.loads(text)
                assert line["source"] == "rank"
                assert line["rank"] in (0, 1)
                assert line["epoch"] in (1, 2)
