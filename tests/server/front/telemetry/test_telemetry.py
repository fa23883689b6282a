"""Spans to a collector, in one process: what happens when there is none, and that nothing is loaded unasked."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import subprocess
import sys
from types import SimpleNamespace

import grpc
import pytest

from tests.server.fakes import create
from tests.support.collector import collector, plain
from vinf.v1 import video_generation_service_pb2 as service_pb2
from vinf_server.config import ServeConfig
from vinf_server.flag_values import ConfigError
from vinf_server.front.generations.generation import Failure
from vinf_server.front.rpc.call_spans import CallSpans
from vinf_server.front.telemetry.export import Telemetry
from vinf_server.front.telemetry.generations import GenerationSpans
from vinf_server.logs import JsonFormatter


def free_address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def log():
    """What reaches the log of a server, warnings and above."""
    lines = []

    class Kept(logging.Handler):
        def emit(self, record):
            lines.append(record.getMessage())

    handler = Kept(logging.WARNING)
    logging.getLogger().addHandler(handler)
    yield lines
    logging.getLogger().removeHandler(handler)


@pytest.mark.fast
def test_a_generation_that_failed_says_why(generations, run):
    async def scenario():
        with collector() as made:
            telemetry = Telemetry(f"http://{made.address}")
            spans = GenerationSpans(telemetry.tracer)
            generations.life_listeners.append(spans)
            generation = create(generations)
            await generations.settle(generation)
            trace_id = spans.trace_id_of(generation.generation_id)
            generations.start_next()
            generations.fail(generation, Failure(13, "OUTPUT_INVALID", "not finite"))
            await spans.close()
            await telemetry.close()
            root = made.wait_for("generation", reason="OUTPUT_INVALID", state="FAILED")
            assert root.trace_id.hex() == trace_id
            assert root.status.code == root.status.STATUS_CODE_ERROR
            assert [child.name for child in made.children(root)] == ["queue"]
            assert not root.links, "nobody's call created it"

    run(scenario())


@pytest.mark.fast
def test_a_generation_of_an_earlier_server_has_a_tree_all_the_same(generations, run):
    async def scenario():
        with collector() as made:
            telemetry = Telemetry(f"http://{made.address}")
            spans = GenerationSpans(telemetry.tracer)
            generation = create(generations)
            generations.life_listeners.append(spans)
            generations.cancel(generation.generation_id)
            await spans.close()
            await telemetry.close()
            assert plain(made.wait_for("generation"))["state"] == "CANCELLED"

    run(scenario())


@pytest.mark.fast
def test_a_collector_that_is_not_there_costs_one_warning_and_no_time(behind, run, log, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.2")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "8")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4")

    async def scenario():
        telemetry = Telemetry(f"http://{free_address()}")
        async with behind(interceptors=[CallSpans(telemetry.tracer)]) as served:
            stub = served.video()
            while not log:
                with pytest.raises(grpc.aio.AioRpcError):
                    await stub.GetGeneration(service_pb2.GetGenerationRequest(generation_id="gen-2"))
            for _ in range(50):
                await stub.ListGenerations(service_pb2.ListGenerationsRequest())
        await telemetry.close()

    run(scenario())
    (line,) = log
    assert line == "the OTLP collector takes no spans; they are left out until it does"


@pytest.mark.fast
def test_a_call_that_is_abandoned_ends_its_span(behind, run):
    async def scenario():
        with collector() as made:
            telemetry = Telemetry(f"http://{made.address}")
            async with behind(interceptors=[CallSpans(telemetry.tracer)]) as served:
                generation = create(served.generations)
                request = service_pb2.StreamFramesRequest(generation_id=generation.generation_id)
                call = served.video().StreamFrames(request)
                assert (await call.read()).WhichOneof("payload") == "header"
                call.cancel()
                while not generation.readers.readings[0].end_ns:  # noqa: ASYNC110  # gRPC's own threads bring it about
                    await asyncio.sleep(0.005)
            await telemetry.close()
            span = made.wait_for("vinf.v1.VideoGenerationService/StreamFrames")
            assert plain(span)["rpc_grpc_status_code"] == grpc.StatusCode.CANCELLED.value[0]

    run(scenario())


@pytest.mark.fast
@pytest.mark.parametrize(
    "url", ["localhost:4317", "grpc://localhost:4317", "http://", "http://host:0x", "http://h:99999"]
)
def test_urls_that_are_none(url):
    with pytest.raises(ConfigError, match=r"--otlp-endpoint: .* is not http"):
        ServeConfig(ranks=1, otlp_endpoint=url)


@pytest.mark.process
def test_nothing_of_it_is_loaded_unasked():
    program = "import sys, vinf_server.front.app\nprint([n for n in sys.modules if n.startswith('opentelemetry')])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.fast
def test_lines_of_a_stream_name_the_trace_of_the_call_and_those_between_its_messages_do_not(run):
    def trace_id():
        record = logging.LogRecord("front", logging.INFO, "", 0, "a line", None, None)
        return json.loads(JsonFormatter("front").format(record)).get("trace_id")

    async def frames(request, context):
        for _ in range(3):
            yield trace_id()

    async def continuation(details):
        return grpc.unary_stream_rpc_method_handler(frames)

    async def scenario():
        with collector() as made:
            telemetry = Telemetry(f"http://{made.address}")
            caller = "4bf92f3577b34da6a3ce929d0e0e4736"
            call = SimpleNamespace(
                method="/vinf.v1.VideoGenerationService/StreamFrames",
                invocation_metadata=(("traceparent", f"00-{caller}-00f067aa0ba902b7-01"),),
            )
            handler = await CallSpans(telemetry.tracer).intercept_service(continuation, call)
            context = SimpleNamespace(code=lambda: grpc.StatusCode.OK)
            seen = [(inside, trace_id()) async for inside in handler.unary_stream(None, context)]
            assert seen == [(caller, None)] * 3
            await telemetry.close()

    run(scenario())
