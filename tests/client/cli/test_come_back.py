"""`vinf generate --detach`, `vinf download`, `vinf watch` and `vinf delete` against a scripted server."""

import json
import os
import signal
import threading
from datetime import UTC, datetime

import grpc
import numpy as np
import pytest
from PIL import Image

from tests.client.fakes import ID, Break, Failure
from vinf.v1 import generation_pb2 as pb
from vinf.v1 import video_generation_service_pb2 as service_pb
from vinf_client import Client
from vinf_client.cli import download, main, watch
from vinf_client.cli.common import server_of

pytestmark = pytest.mark.fast

NOT_ENDED = 6


@pytest.fixture
def vinf(server, tmp_path, monkeypatch):
    """Run a command against the server; returns the exit code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VINF_SERVER", server.address)

    def call(*arguments):
        try:
            return main(list(arguments))
        except SystemExit as exit_:
            return exit_.code

    return call


def draining():
    error = pb.GenerationError(code=14, reason="SERVER_DRAINING", message="bye")
    return service_pb.StreamEnd(state=pb.GENERATION_STATE_RUNNING, error=error)


def event(sequence, state, reason="", message=""):
    when = datetime(2030, 1, 1, tzinfo=UTC)
    return pb.GenerationEvent(sequence=sequence, time=when, state=state, state_reason=reason, message=message)


class TestDetach:
    def test_the_id_is_printed_and_nothing_is_read(self, vinf, server, capsys):
        assert vinf("generate", "a red ball", "--detach") == 0
        out, err = capsys.readouterr()
        assert out == f"{ID}\n"
        assert f"vinf download {ID} --wait" in err
        (request,) = server.creates
        assert request.detached
        assert (server.streams, server.watches, server.cancelled.is_set()) == ([], [], False)

    def test_json_is_one_object(self, vinf, capsys):
        assert vinf("generate", "a red ball", "--detach", "--json", "--quiet") == 0
        out, err = capsys.readouterr()
        told = json.loads(out)
        assert (told["generation_id"], told["state"], told["spec"]["seed"]) == (ID, "pending", 77)
        assert out.count("\n") == 1
        assert err == ""

    def test_options_reach_the_server(self, vinf, server):
        name = "0189d5f0-0000-4000-8000-000000000000"
        options = f"--priority 0 --deadline 2h --label a=b --label c=d=e --request-id {name} --quiet"
        server.info.server_time.FromDatetime(datetime(2040, 1, 1))
        assert vinf("generate", "a red ball", "--detach", *options.split()) == 0
        (request,) = server.creates
        assert request.HasField("priority")
        assert request.priority.value == 0
        assert request.deadline.ToDatetime() == datetime(2040, 1, 1, 2)
        assert dict(request.labels) == {"a": "b", "c": "d=e"}
        assert request.request_id == name

    def test_without_it_there_is_a_lease(self, vinf, server):
        assert vinf("generate", "a red ball", "-o", "a.npy", "--priority", "7", "--quiet") == 0
        (request,) = server.creates
        assert not request.detached
        assert not request.HasField("lease_duration")
        assert request.priority.value == 7

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ("--detach -o a.mp4", "--output: cannot be combined with --detach; vinf download ID fetches"),
            ("--detach --sheet a.png", "--sheet: cannot be combined with --detach"),
            ("--detach --local", "--local: cannot be combined with --detach"),
            ("--json", "-o/--output: is missing; give it, or --detach"),
            ("--detach --deadline soon", "--deadline: 'soon' is not allowed; allowed: a time such as 90s"),
            ("--detach --label a", "--label: 'a' is not allowed; allowed: KEY=VALUE"),
            ("--detach --label a=b --label a=c", "--label: a stands there twice"),
            ("--detach --priority high", "--priority: invalid int value"),
            ("--detach --frames 0", "--frames: 0 is not allowed"),
        ],
    )
    def test_bad_options_are_one_line(self, vinf, server, capsys, options, words):
        assert vinf("generate", "a red ball", *options.split(), "--quiet") == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"vinf generate: {words}")
        assert all(request.validate_only for request in server.creates)

    @pytest.mark.parametrize(
        ("reason", "words"), [("CLIENT_LIMIT", "2 of 2 queued"), ("DISK_FULL", "no room for 96 frames")]
    )
    def test_limits_have_an_exit_code(self, vinf, server, capsys, reason, words):
        server.create_failures.append(Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, reason, words))
        assert vinf("generate", "a red ball", "--detach") == 5
        assert capsys.readouterr().err == f"vinf generate: {words}\n"

    def test_the_servers_violations_carry_the_names_of_options(self, vinf, server, capsys):
        violations = (("labels", "too many"), ("priority", "must be in [0, 9], got 11"), ("deadline", "too late"))
        server.create_failures.append(Failure(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", violations=violations))
        assert vinf("generate", "a red ball", "--detach") == 2
        names = [line.split(":")[0].strip() for line in capsys.readouterr().err.splitlines()[1:]]
        assert names == ["--label", "--priority", "--deadline"]


class TestDownload:
    def test_a_finished_one(self, vinf, server, capsys):
        assert vinf("download", ID, "-o", "a.npy", "--json") == 0
        np.testing.assert_array_equal(np.load("a.npy"), server.video())
        out, err = capsys.readouterr()
        assert json.loads(out) == {
            "generation_id": ID,
            "state": "succeeded",
            "state_reason": "",
            "first_frame": 0,
            "frames": 7,
            "frame_count": 7,
            "output": "a.npy",
        }
        assert err == "vinf: a.npy: 7 frames, 0 to 6 of 7\n"

    def test_the_name_is_the_id_without_one(self, vinf, capsys):
        assert vinf("download", ID, "--quiet") == 0
        assert os.listdir() == [f"{ID}.mp4"]
        assert capsys.readouterr() == ("", "")

    def test_all_frames_are_there_before_the_end(self, vinf, server):
        server.state = pb.GENERATION_STATE_RUNNING
        assert vinf("download", ID, "-o", "a.npy", "--quiet") == 0
        np.testing.assert_array_equal(np.load("a.npy"), server.video())

    def test_from_a_frame_on(self, vinf, server):
        import av

        assert vinf("download", ID, "-o", "a.npy", "--from-frame", "5") == 0
        np.testing.assert_array_equal(np.load("a.npy"), server.video()[5:])
        assert vinf("download", ID, "-o", "a.mp4", "--from-frame", "5") == 0
        with av.open("a.mp4") as container:
            assert len(list(container.decode(video=0))) == 2

    def test_png_files_keep_their_numbers_and_join_those_before(self, vinf, server):
        server.state, server.available = pb.GENERATION_STATE_RUNNING, (0, 5)
        assert vinf("download", ID, "-o", "frames/") == NOT_ENDED
        server.state, server.available = pb.GENERATION_STATE_SUCCEEDED, (0, None)
        assert vinf("download", ID, "-o", "frames/", "--from-frame", "5") == 0
        assert sorted(os.listdir("frames")) == [f"frame_{index:06d}.png" for index in range(7)]
        for index, frame in enumerate(server.video()):
            with Image.open(f"frames/frame_{index:06d}.png") as picture:
                np.testing.assert_array_equal(np.asarray(picture), frame)
        assert os.listdir() == ["frames"]

    def test_an_unfinished_one_gives_what_is_there(self, vinf, server, capsys):
        server.state, server.state_reason = pb.GENERATION_STATE_SUSPENDED, "DISK_FULL"
        server.available = (0, 3)
        assert vinf("download", ID, "-o", "a.npy") == NOT_ENDED
        np.testing.assert_array_equal(np.load("a.npy"), server.video()[:3])
        assert capsys.readouterr().err.splitlines() == [
            "vinf: a.npy: 3 frames, 0 to 2 of 7",
            f"vinf download: generation {ID} is suspended (DISK_FULL): 3 of 7 frames are there; "
            f"wait for the rest with: vinf download {ID} --wait",
        ]

    @pytest.mark.parametrize("start", ["0", "4"])
    def test_no_frame_is_there_yet(self, vinf, server, capsys, start):
        server.state, server.available = pb.GENERATION_STATE_PENDING, (0, 0)
        assert vinf("download", ID, "-o", "a.mp4", "--from-frame", start, "--json") == NOT_ENDED
        assert json.loads(capsys.readouterr().out)["output"] is None
        assert os.listdir() == []
        assert server.streams == []

    @pytest.mark.parametrize("state", [pb.GENERATION_STATE_FAILED, pb.GENERATION_STATE_CANCELLED])
    def test_one_that_did_not_succeed_gives_what_is_there(self, vinf, server, capsys, state):
        server.state, server.available = state, (0, 3)
        server.error = pb.GenerationError(code=14, reason="WORKER_LOST", message="rank 1 died")
        assert vinf("download", ID, "-o", "a.npy", "--wait", "--quiet") == 4
        assert len(np.load("a.npy")) == 3
        assert capsys.readouterr().err == "vinf download: rank 1 died\n"

    def test_one_that_fails_while_it_is_waited_for(self, vinf, server, capsys):
        server.state, server.available = pb.GENERATION_STATE_RUNNING, (0, 3)
        server.hold_after = 2
        error = pb.GenerationError(code=14, reason="WORKER_LOST", message="rank 1 died")
        server.ends.append(service_pb.StreamEnd(state=pb.GENERATION_STATE_FAILED, error=error, next_frame_index=3))

        def fail():
            server.holding.wait(60)
            server.state, server.error = pb.GENERATION_STATE_FAILED, error
            server.hold_after = None
            server.released.set()

        thread = threading.Thread(target=fail)
        thread.start()
        assert vinf("download", ID, "-o", "a.npy", "--wait", "--quiet") == 4
        thread.join(60)
        np.testing.assert_array_equal(np.load("a.npy"), server.video()[:3])
        assert capsys.readouterr().err == "vinf download: rank 1 died\n"

    def test_broken_streams_are_resumed_without_loss_or_duplicate(self, vinf, server, capsys):
        server.state = pb.GENERATION_STATE_RUNNING
        server.breaks.extend([Break(2, part_bytes=100), Break(0), Break(3, failure=None)])
        assert vinf("download", ID, "-o", "a.npy", "--wait") == 0
        np.testing.assert_array_equal(np.load("a.npy"), server.video())
        assert [request.start_frame_index for request in server.streams] == [0, 2, 2, 5]
        assert "the connection broke, trying again" in capsys.readouterr().err

    def test_a_restart_of_the_server_costs_nothing(self, vinf, server):
        server.state = pb.GENERATION_STATE_RUNNING
        server.breaks.append(Break(3, failure=None))

        def restart():
            assert server.stream_ended.wait(60)
            server.restart()

        thread = threading.Thread(target=restart)
        thread.start()
        assert vinf("download", ID, "-o", "a.npy", "--wait", "--quiet") == 0
        thread.join(60)
        assert not thread.is_alive()
        np.testing.assert_array_equal(np.load("a.npy"), server.video())

    def test_a_server_that_is_gone_after_the_last_frame_costs_nothing(self, vinf, server, capsys, monkeypatch):
        server.state = pb.GENERATION_STATE_RUNNING
        attach = Client.attach

        def attach_and_break(client, generation_id):
            handle = attach(client, generation_id)
            server.get_failure = Failure(grpc.StatusCode.UNAVAILABLE)
            return handle

        monkeypatch.setattr(Client, "attach", attach_and_break)
        assert vinf("download", ID, "-o", "a.npy", "--wait", "--quiet", "--json") == 0
        told = json.loads(capsys.readouterr().out)
        assert (told["state"], told["frames"]) == ("succeeded", 7)

    def test_a_restarting_server_is_named(self, vinf, server, capsys):
        server.state = pb.GENERATION_STATE_RUNNING
        server.ends.append(draining())
        assert vinf("download", ID, "-o", "a.npy", "--wait") == 0
        words = "the server is restarting; the generation goes on when it is back; resume later with: vinf download"
        assert f"vinf: {words} {ID} --wait\n" in capsys.readouterr().err
        np.testing.assert_array_equal(np.load("a.npy"), server.video())

    def test_the_last_message_says_how_to_go_on(self, vinf, server, capsys, monkeypatch):
        monkeypatch.setattr(download, "RESUME_ATTEMPTS", 1)
        server.state = pb.GENERATION_STATE_RUNNING
        server.ends.extend([draining()] * 5)
        assert vinf("download", ID, "-o", "a.npy", "--wait", "--quiet") == 5
        assert capsys.readouterr().err.splitlines() == [
            "vinf download: bye",
            f"vinf download: generation {ID}: resume later with: vinf download {ID} --wait",
        ]
        assert os.listdir() == []

    @pytest.mark.parametrize("start", ["-1", "7", "99"])
    def test_frames_that_the_video_does_not_have(self, vinf, capsys, start):
        assert vinf("download", ID, "--from-frame", start) == 2
        words = f"--from-frame: {start} is not allowed; allowed: [0, 6]"
        assert capsys.readouterr().err == f"vinf download: {words}\n"

    def test_frames_that_are_no_longer_kept(self, vinf, server, capsys):
        server.available = (3, None)
        assert vinf("download", ID, "-o", "a.npy") == 2
        assert capsys.readouterr().err == (
            "vinf download: frame 0 is no longer kept; --from-frame 3 takes the frames that are\n"
        )
        assert vinf("download", ID, "-o", "a.npy", "--from-frame", "3", "--quiet") == 0
        assert len(np.load("a.npy")) == 4

    @pytest.mark.parametrize(("arguments", "words"), [(["other"], "no such"), ([ID, "-o", "a.avi"], "not an output")])
    def test_mistakes_are_one_line(self, vinf, capsys, arguments, words):
        assert vinf("download", *arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_a_signal_leaves_the_generation_alone(self, vinf, server, capsys, number, code):
        server.state = pb.GENERATION_STATE_RUNNING
        server.hold_after = 3

        def interrupt():
            server.holding.wait(60)
            os.kill(os.getpid(), number)

        thread = threading.Thread(target=interrupt)
        thread.start()
        assert vinf("download", ID, "-o", "a.npy", "--wait", "--quiet") == code
        thread.join(60)
        assert not server.cancelled.is_set()
        assert os.listdir() == []
        assert len(capsys.readouterr().err.splitlines()) == 1


class TestGenerate:
    def test_the_last_message_says_how_to_go_on(self, vinf, server, capsys, monkeypatch):
        monkeypatch.setattr(
            "vinf_client.cli.generate.client_of", lambda arguments: Client(server_of(arguments), resume_attempts=1)
        )
        server.ends.extend([draining()] * 5)
        assert vinf("generate", "a red ball", "-o", "a.npy", "--quiet") == 5
        assert capsys.readouterr().err.splitlines() == [
            "vinf generate: bye",
            f"vinf generate: generation {ID}: resume later with: vinf download {ID} --wait",
        ]
        assert not server.cancelled.is_set()


class TestWatch:
    def test_events_and_the_end(self, vinf, server, capsys):
        server.events = [event(1, 1, "QUEUED"), event(2, 2), event(3, 99, "NEW", "from the future"), event(4, 4)]
        server.watch_breaks.append(Failure(grpc.StatusCode.UNAVAILABLE, "SERVER_DRAINING", "bye"))
        assert vinf("watch", ID) == 0
        out, err = capsys.readouterr()
        assert [line.split(maxsplit=1)[1] for line in out.splitlines()] == [
            "1  pending (QUEUED)",
            "2  running",
            "3  unknown (NEW): from the future",
            "4  succeeded",
        ]
        assert "the server is restarting; the generation goes on when it is back" in err
        assert server.watches == [0, 2]

    def test_json_lines(self, vinf, server, capsys):
        server.events = [event(1, 1, "QUEUED"), event(2, 2), event(3, 4)]
        assert vinf("watch", ID, "--json", "--quiet") == 0
        told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [line["kind"] for line in told] == ["event", "event", "generation", "event", "generation"]
        assert told[0] == {
            "kind": "event",
            "generation_id": ID,
            "sequence": 1,
            "time": "2030-01-01T00:00:00+00:00",
            "state": "pending",
            "state_reason": "QUEUED",
            "message": "",
        }
        assert told[-1]["state"] == "succeeded"
        assert told[-1]["progress"]["completed_frame_count"] == 7

    def test_known_events_are_left_out(self, vinf, server, capsys):
        server.events = [event(1, 1), event(2, 2), event(3, 4)]
        assert vinf("watch", ID, "--after-sequence", "2", "--quiet") == 0
        assert len(capsys.readouterr().out.splitlines()) == 1

    @pytest.mark.parametrize("state", [pb.GENERATION_STATE_FAILED, pb.GENERATION_STATE_CANCELLED])
    def test_the_exit_code_says_how_it_ended(self, vinf, server, capsys, state):
        server.state = state
        server.error = pb.GenerationError(code=1, reason="LEASE_EXPIRED", message="nobody asked for it")
        assert vinf("watch", ID, "--quiet") == 4
        assert capsys.readouterr().err == "vinf watch: nobody asked for it\n"

    def test_the_last_message_says_how_to_go_on(self, vinf, server, capsys, monkeypatch):
        monkeypatch.setattr(watch, "RESUME_ATTEMPTS", 0)
        server.watch_breaks.append(Failure(grpc.StatusCode.UNAVAILABLE, "SERVER_DRAINING", "bye"))
        assert vinf("watch", ID, "--quiet") == 5
        assert capsys.readouterr().err.splitlines() == [
            "vinf watch: bye",
            f"vinf watch: generation {ID}: resume later with: vinf download {ID} --wait",
        ]

    def test_an_unknown_id(self, vinf, capsys):
        assert vinf("watch", "other") == 2
        assert capsys.readouterr().err == "vinf watch: no such generation\n"

    def test_ctrl_c_leaves_the_generation_alone(self, vinf, server, capsys):
        server.hold_after = 0

        def interrupt():
            server.holding.wait(60)
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        assert vinf("watch", ID, "--quiet") == 130
        thread.join(60)
        assert not server.cancelled.is_set()


class TestDelete:
    def test_several(self, vinf, server, capsys):
        server.delete_failures = {
            "gen-2": Failure(grpc.StatusCode.FAILED_PRECONDITION, "WRONG_STATE", "it is running"),
        }
        assert vinf("delete", "gen-2", ID, "gen-3", ID) == NOT_ENDED
        out, err = capsys.readouterr()
        assert out == f"{ID}: deleted\n"
        assert err.splitlines() == [
            "vinf delete: gen-2: has not ended; vinf cancel it first",
            "vinf delete: gen-3: no such generation",
        ]
        assert server.deletes == ["gen-2", ID, "gen-3"]

    def test_json(self, vinf, capsys):
        assert vinf("delete", ID, "gen-3", "--json") == 2
        told = json.loads(capsys.readouterr().out)
        assert told == {"deleted": [ID], "failed": {"gen-3": "GENERATION_NOT_FOUND"}}

    def test_one(self, vinf, capsys):
        assert vinf("delete", ID) == 0
        assert capsys.readouterr() == (f"{ID}: deleted\n", "")


class TestList:
    def test_reasons_and_labels(self, vinf, server, capsys):
        server.state, server.state_reason = pb.GENERATION_STATE_PENDING, "PREEMPTED"
        server.labels = {"who": "me"}
        assert vinf("list") == 0
        header, row = capsys.readouterr().out.splitlines()
        assert header.split() == ["ID", "STATE", "PRIORITY", "FRAMES", "CREATED", "LABELS", "PROMPT"]
        assert row.split() == [ID, "pending", "(PREEMPTED)", "5", "7/7", "who=me", "a", "red", "ball"]


@pytest.mark.parametrize("command", ["download", "watch", "delete"])
def test_no_server(vinf, capsys, command):
    assert vinf(command, ID, "--server", "127.0.0.1:1") == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot reach a vinf server at 127.0.0.1:1: connection refused" in line
