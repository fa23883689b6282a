"""Traces: the format that Perfetto reads, what the time went to, and `vinf trace`."""

import gzip
import json
import os

import pytest
from opentelemetry import propagate as _propagate  # noqa: F401  # a program that uses OpenTelemetry has loaded it
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, use_span

from tests.client.blocking import BlockingClient
from vinf_client import Client, OutputError, Trace, TraceLane, TraceSpan
from vinf_client.cli import main
from vinf_client.testing import FakeServer

pytestmark = pytest.mark.fast

MS = 1_000_000
ZERO = 1_700_000_000_000 * MS


def span(lane, start, duration, *, name="", rank=0, epoch=1, **fields):
    """A span, by milliseconds."""
    return TraceSpan(
        lane=TraceLane(lane),
        name=name or lane,
        rank=rank,
        epoch=0 if rank is None else epoch,
        start_ns=ZERO + int(start * MS),
        duration_ns=int(duration * MS),
        **fields,
    )


TWO_RANKS = Trace(
    "gen-1",
    (
        span("state", 0, 100, name="running", rank=None),
        span("text", 5, 5),
        span("compute", 10, 40, name="step", step=1, communicate_ns=12 * MS),
        span("communicate", 12, 2, name="post", step=1),
        span("transfer", 12, 20, name="exchange", step=1, communicate_ns=12 * MS),
        span("communicate", 22, 10, name="wait", step=1),
        span("compute", 10, 30, name="step", step=1, rank=1),
        span("wait", 40, 10, name="agree", rank=1),
        span("decode", 60, 20, frames=range(4, 8)),
        span("deliver", 80, 5, name="send", frames=range(4, 5)),
        span("deliver", 82, 5, name="hand over"),
        span("deliver", 86, 5, name="send", frames=range(5, 6)),
    ),
    left_out_count=3,
)


def events_of(trace):
    return json.loads(json.dumps(trace.to_chrome()))["traceEvents"]


def test_every_event_is_what_the_format_says():
    """The Trace Event Format: complete events with microseconds, metadata events that name processes and threads."""
    whole = TWO_RANKS.to_chrome()
    assert whole["displayTimeUnit"] in ("ms", "ns")
    assert whole["otherData"] == {
        "generation_id": "gen-1",
        "start_time": "2023-11-14T22:13:20+00:00",
        "left_out_spans": 3,
    }
    for event in events_of(TWO_RANKS):
        assert isinstance(event["pid"], int)
        assert isinstance(event["tid"], int)
        assert event["name"]
        if event["ph"] == "M":
            assert event["name"] in ("process_name", "process_sort_index", "thread_name", "thread_sort_index")
            (value,) = event["args"].values()
            assert isinstance(value, int if event["name"].endswith("index") else str)
        else:
            assert event["ph"] == "X"
            assert event["ts"] >= 0
            assert event["dur"] >= 0
            assert isinstance(event["cat"], str)


def test_a_process_is_a_rank_and_a_thread_a_lane():
    events = events_of(TWO_RANKS)
    processes = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert list(processes.values()) == ["server", "rank 0", "rank 1"]
    threads = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    shown = [(processes[e["pid"]], threads[e["pid"], e["tid"]], e["name"]) for e in events if e["ph"] == "X"]
    assert ("rank 0", "compute", "step 1") in shown
    assert ("rank 1", "wait", "agree") in shown
    assert ("server", "state", "running") in shown
    decode = next(e for e in events if e["name"] == "decode")
    assert (decode["ts"], decode["dur"], decode["args"]) == (60_000, 20_000, {"first_frame": 4, "frames": 4})
    exchange = next(e for e in events if e["name"] == "exchange")
    assert exchange["args"] == {"step": 1, "communicate_ms": 12.0, "hidden": "40%"}


def test_events_of_a_thread_are_nested():
    """What overlaps without one holding the other is on another thread: the format demands it."""
    threads = {}
    for event in events_of(TWO_RANKS):
        if event["ph"] == "X":
            threads.setdefault((event["pid"], event["tid"]), []).append((event["ts"], event["ts"] + event["dur"]))
    for spans in threads.values():
        for start, end in spans:
            for other_start, other_end in spans:
                is_apart = end <= other_start or other_end <= start
                is_nested = (start <= other_start and other_end <= end) or (other_start <= start and end <= other_end)
                assert is_apart or is_nested
    names = [e["args"]["name"] for e in events_of(TWO_RANKS) if e["name"] == "thread_name"]
    assert names.count("deliver") == 2


def test_a_step_shows_when_it_computed():
    computing = [(e["ts"], e["ts"] + e["dur"]) for e in events_of(TWO_RANKS) if e["name"] == "computing"]
    assert computing == [(10_000, 12_000), (14_000, 22_000), (32_000, 50_000), (10_000, 40_000)]


def test_two_launches_are_told_apart():
    trace = Trace("gen-1", (span("compute", 0, 5, step=1), span("compute", 9, 5, step=1, epoch=2)))
    names = [e["args"]["name"] for e in events_of(trace) if e["name"] == "process_name"]
    assert names == ["rank 0, launch 1", "rank 0, launch 2"]


def test_an_empty_trace_is_one():
    assert Trace("gen-1", ()).to_chrome()["traceEvents"] == []
    assert Trace("gen-1", ()).shares() == {}


def test_shares():
    first, second = TWO_RANKS.shares().values()
    assert first.seconds == pytest.approx(0.086)
    seconds = {lane.value: round(value * 1000) for lane, value in first.lanes.items()}
    assert seconds == {
        "text": 5,
        "compute": 28,
        "decode": 20,
        "checkpoint": 0,
        "deliver": 11,  # what overlaps counts once
        "wait": 0,
        "communicate": 12,
    }
    assert first.hidden_share == pytest.approx(0.4)
    assert second.hidden_share is None
    assert second.lanes[TraceLane.WAIT] == pytest.approx(0.01)


def test_files(tmp_path):
    plain = TWO_RANKS.save(tmp_path / "folder" / "a.json")
    packed = TWO_RANKS.save(tmp_path / "a.json.gz")
    assert json.loads(plain.read_text()) == json.loads(gzip.decompress(packed.read_bytes())) == TWO_RANKS.to_chrome()
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".partial")] == []
    with pytest.raises(OutputError, match="cannot be written"):
        TWO_RANKS.save(plain / "b.json")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="a device or a pipe"):
        TWO_RANKS.save(tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()


class Listening(FakeServer):
    """Keeps what calls carry."""

    def GetServerInfo(self, request, context):
        self.carried = dict(context.invocation_metadata())
        return super().GetServerInfo(request, context)


@pytest.mark.parametrize("kind", [Client, BlockingClient])
def test_calls_name_the_span_that_is_active(kind):
    with Listening() as server, kind(server.address, token="", tls=False) as client:
        client.info()
        assert "traceparent" not in server.carried
        context = SpanContext(0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7, False, TraceFlags(1))
        with use_span(NonRecordingSpan(context)):
            client.info()
    assert server.carried["traceparent"] == "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def made():
    """A generation of a fake server; its address and its id."""
    with FakeServer() as server, Client(server.address, token="", tls=False) as client:
        handle = client.submit("a red ball", frames=8, steps=3)
        handle.wait(20)
        yield server.address, handle.generation_id


def test_the_command_writes_a_file_and_tells_what_the_time_went_to(made, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    address, generation_id = made
    assert main(["trace", generation_id, "--server", address]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    header, line, hint = err.splitlines()
    assert header.split()[:4] == ["rank", "seconds", "text", "compute"]
    assert line.split()[0] == "0"
    name = f"{generation_id}.trace.json.gz"
    assert hint.startswith(f"{name}: 5 spans; open it at https://ui.perfetto.dev")
    events = json.loads(gzip.decompress((tmp_path / name).read_bytes()))["traceEvents"]
    assert {"step 1", "step 2", "step 3", "running"} <= {event["name"] for event in events}


def test_the_command_writes_to_standard_output(made, capsysbinary):
    address, generation_id = made
    assert main(["trace", generation_id, "--server", address, "-o", "-", "--quiet"]) == 0
    out, err = capsysbinary.readouterr()
    assert json.loads(out)["otherData"]["generation_id"] == generation_id
    assert err == b""


def test_the_command_answers_in_json(made, tmp_path, capsys):
    address, generation_id = made
    target = str(tmp_path / "a.json")
    assert main(["trace", generation_id, "--server", address, "-o", target, "--json", "--quiet"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    told = json.loads(line)
    assert (told["output"], told["spans"], told["left_out"]) == (target, 5, 0)
    assert told["ranks"][0]["rank"] == 0


def test_bad_outputs_are_told_before_anything_is_asked(capsys, tmp_path):
    (tmp_path / "file").touch()
    for output, problem in (("", "is not an output"), (f"{tmp_path}/file/a.json", "cannot be written")):
        assert main(["trace", "gen-1", "--server", "127.0.0.1:1", "-o", output]) == 2
        assert problem in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["trace", "gen-1", "--json", "-o", "-"])
    assert ended.value.code == 2
