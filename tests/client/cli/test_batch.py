"""`vinf batch`: what a list may say, what a folder holds, and a real server with scripted ranks."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import uuid

import grpc
import numpy as np
import pytest

from tests.client.cli.ptys import ROOT, TIMEOUT_S, Terminal
from tests.client.fakes import Failure
from tests.server.conftest import QUICK_AGENT, wait_until
from tests.server.fakes import frame_bytes
from vinf.v1 import generation_pb2 as pb
from vinf.v1 import video_generation_service_pb2 as service_pb
from vinf_client import ImageCondition, InvalidRequestError, PromptSegment
from vinf_client.cli.batch_folder import Folder
from vinf_client.cli.batch_items import read_items


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def write(tmp_path):
    """Write a list; lines that are no text become JSON."""

    def to(name, *lines):
        path = tmp_path / name
        path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
        return path

    return to


@pytest.mark.fast
class TestLists:
    def test_everything_a_line_may_say(self, write):
        segment = {"start_frame": 8, "prompt": "a star", "transition_frames": 2}
        told = {"prompt": "a ball", "name": "ball.1", "seed": 7, "frames": 24, "fps": "24000/1001", "window": 8}
        more = {"segments": [segment], "priority": 9, "labels": {"a": "b"}, "deadline": 60, "guidance": None}
        (item,) = read_items(write("a.jsonl", told | more), {"frames": 96, "steps": 6, "width": None, "guidance": 2.0})
        assert (item.name, item.prompt, item.line) == ("ball.1", "a ball", 1)
        assert (item.priority, item.labels, item.deadline) == (9, {"a": "b"}, 60)
        assert item.options == {
            "frames": 24,
            "steps": 6,
            "guidance": 2.0,
            "seed": 7,
            "fps": "24000/1001",
            "window": 8,
            "segments": (PromptSegment(8, "a star", 2),),
        }

    def test_prompts_alone(self, write):
        items = read_items(write("a.txt", "a red ball", "", '  {"x": 1}'), {})
        assert [(item.line, item.prompt) for item in items] == [(1, "a red ball"), (3, '{"x": 1}')]

    def test_names_say_what_it_is_and_stay_the_same(self, write):
        first = read_items(write("a.txt", "A red ball, bouncing!", "a star"), {})
        assert first[0].name == f"a-red-ball-bouncing-{first[0].digest[:8]}"
        again = read_items(write("b.txt", "a box", "a star", "A red ball, bouncing!"), {})
        assert [item.name for item in again[1:]] == [first[1].name, first[0].name]
        (longer,) = read_items(write("c.txt", "a star"), {"frames": 9})
        assert longer.name != first[1].name

    def test_the_same_line_again_is_another_video(self, write):
        names = [item.name for item in read_items(write("a.txt", *["a star"] * 3), {})]
        assert names == [names[0], f"{names[0]}-2", f"{names[0]}-3"]

    def test_a_prompt_without_letters_has_a_name(self, write):
        (item,) = read_items(write("a.txt", "星"), {})
        assert item.name == f"video-{item.digest[:8]}"

    def test_request_ids_are_uuids_of_folder_video_and_attempt(self, write, tmp_path):
        (item,) = read_items(write("a.txt", "a star"), {})
        ids = [item.request_id(tmp_path / folder, attempt) for folder in "xy" for attempt in (0, 1)]
        assert len(set(ids)) == 4
        assert ids[0] == item.request_id(tmp_path / "x", 0)
        assert all(str(uuid.UUID(name)) == name for name in ids)

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ('{"prompt": "a ball"', "is not JSON: Expecting ',' delimiter at column 20"),
            ("7", "7 is not allowed; allowed: an object with prompt, name, "),
            ('{"frames": 7}', "prompt: is missing; allowed: text"),
            ('{"prompt": " "}', "prompt: must not be empty"),
            ('{"prompt": 7}', "prompt: must be text, got 7"),
            ('{"prompt": "a", "frame": 7}', 'the key "frame" is not allowed; allowed: prompt, name, '),
            ('{"prompt": "a", "frames": "7"}', "frames: must be a whole number, got '7'"),
            ('{"prompt": "a", "frames": 0}', "frames: 0 is not allowed; allowed: at least 1"),
            ('{"prompt": "a", "seed": true}', "seed: must be a whole number, got True"),
            ('{"prompt": "a", "fps": []}', "fps: [] is not allowed"),
            ('{"prompt": "a", "segments": 7}', "segments: must be a list of PromptSegment, got 7"),
            ('{"prompt": "a", "segments": [{"prompt": "b"}]}', "segments[0].start_frame: is missing"),
            ('{"prompt": "a", "name": "../a"}', 'name: "../a" is not allowed; allowed: 1 to 100 characters from'),
            ('{"prompt": "a", "name": ".a"}', 'name: ".a" is not allowed'),
            ('{"prompt": "a", "labels": 7}', "labels: must be a mapping of texts, got 7"),
            ('{"prompt": "a", "deadline": -1}', "deadline: -1 s is not allowed"),
            ('{"prompt": "a", "image": 7}', "image: 7 is not allowed; allowed: a PNG or JPEG file"),
            ('{"prompt": "a", "end_image": "none.png"}', "none.png cannot be read: No such file or directory"),
            ('{"prompt": "a", "image": "."}', "is a folder; allowed: a PNG or JPEG file"),
            ('{"prompt": "a", "image_conditions": []}', 'the key "image_conditions" is not allowed'),
            ('{"prompt": "a", "prompt": "b"}', 'the key "prompt" stands there twice'),
            ('{"prompt": "a", "seed": ' + "9" * 5000 + "}", "Exceeds the limit"),
        ],
    )
    def test_wrong_lines_are_told_with_their_number(self, write, line, words):
        path = write("a.jsonl", {"prompt": "fine"}, line)
        with pytest.raises(InvalidRequestError) as caught:
            read_items(path, {})
        assert str(caught.value).startswith(f"{path}:2: ")
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_images_are_named_from_the_folder_of_the_list(self, write, tmp_path):
        for name in ("a.png", "b.png", "c.png"):
            (tmp_path / name).write_bytes(name.encode())
        defaults = {"image_conditions": [ImageCondition(0, tmp_path / "c.png")]}
        lines = [{"prompt": "a"}, {"prompt": "a", "image": "a.png"}, {"prompt": "a", "end_image": "b.png"}]
        path = write("a.jsonl", *lines)
        items = read_items(path, defaults)
        assert [item.options["image_conditions"] for item in items] == [
            (ImageCondition(0, tmp_path / "c.png"),),
            (ImageCondition(0, tmp_path / "a.png"),),
            (ImageCondition(0, tmp_path / "c.png"), ImageCondition(-1, tmp_path / "b.png")),
        ]
        assert len({item.digest for item in items}) == 3
        # Another file under the same name makes another video.
        (tmp_path / "a.png").write_bytes(b"changed")
        changed = [item.digest == before.digest for item, before in zip(read_items(path, defaults), items, strict=True)]
        assert changed == [True, False, True]

    def test_a_name_may_stand_there_once(self, write):
        with pytest.raises(InvalidRequestError, match=r'a.jsonl:2: name: "x" is taken by a line before'):
            read_items(write("a.jsonl", {"prompt": "a", "name": "x"}, {"prompt": "b", "name": "x"}), {})

    def test_a_file_of_mistakes_is_told_in_part(self, write, vinf, capsys, tmp_path):
        path = write("a.jsonl", *["?"] * 25)
        assert vinf("batch", str(path), "-o", str(tmp_path / "out")) == 2
        head, *lines = capsys.readouterr().err.splitlines()
        assert head == "vinf batch: 21 things to mend:"
        assert lines[0].startswith(f"  {path}:1: is not JSON")
        assert lines[-1] == "  and 5 more lines"


@pytest.mark.fast
class TestFolder:
    @pytest.fixture
    def batch(self, server, vinf, tmp_path):
        def call(path, *arguments):
            options = ["-o", str(tmp_path / "out"), "--format", "npy", "--server", server.address]
            return vinf("batch", str(path), *options, *arguments)

        return call

    def test_caption_and_spec_beside_the_video(self, batch, server, write, tmp_path, capsys):
        path = write("a.jsonl", {"prompt": " a red ball ", "seed": 77, "name": "ball", "labels": {"a": "b"}})
        assert batch(path, "--steps", "9", "--json") == 0
        assert names_in(tmp_path / "out") == ["ball.json", "ball.npy", "ball.txt"]
        np.testing.assert_array_equal(np.load(tmp_path / "out" / "ball.npy"), server.video())
        assert (tmp_path / "out" / "ball.txt").read_text() == "a red ball\n"
        told = json.loads((tmp_path / "out" / "ball.json").read_text())
        assert told["options"] == {"seed": 77, "steps": 9}
        assert (told["output"], told["frames"], told["generation_id"]) == ("ball.npy", 7, "gen-1")
        assert told["resolved_spec"]["inference_step_count"] == 20
        (request,) = server.creates
        assert request.detached
        assert dict(request.labels) == {"a": "b"}
        out, err = capsys.readouterr()
        video, summary = map(json.loads, out.splitlines())
        assert (video["kind"], video["name"], video["seed"], video["frames"]) == ("video", "ball", 77, 7)
        assert summary == {"kind": "summary", "saved": 1, "skipped": 0, "failed": 0, "left": 0}
        assert err.splitlines()[-1].endswith("out: 1 saved of 1 videos")

    def test_images_are_named_beside_the_video(self, batch, server, write, tmp_path):
        for name in ("a.png", "b.png"):
            (tmp_path / name).write_bytes(name.encode())
        path = write("a.jsonl", {"prompt": "a ball", "name": "ball", "image": "a.png", "end_image": "b.png"})
        assert batch(path, "--frames", "7") == 0
        (request,) = server.creates
        sent = [(image.frame_index, image.image) for image in request.spec.image_conditions]
        assert sent == [(0, b"a.png"), (6, b"b.png")]
        told = json.loads((tmp_path / "out" / "ball.json").read_text())["options"]["image_conditions"]
        assert told == [
            {"frame_index": 0, "image": str(tmp_path / "a.png")},
            {"frame_index": -1, "image": str(tmp_path / "b.png")},
        ]
        assert batch(path, "--frames", "7") == 0
        assert len(server.creates) == 1

    def test_an_unexpected_error_is_told(self, batch, server, write, monkeypatch, capsys):
        def finish(*_, **__):
            raise RuntimeError("what nobody thought of")

        monkeypatch.setattr(Folder, "finish", finish)
        assert batch(write("a.txt", "a", "b"), "--in-flight", "1") == 1
        *_, summary, last = capsys.readouterr().err.splitlines()
        assert summary.endswith("0 saved, 2 left of 2 videos; the same command again goes on")
        assert last == "vinf batch: unexpected RuntimeError: what nobody thought of"
        assert len(server.creates) == 1

    def test_what_is_done_is_left_out(self, batch, server, write, tmp_path, capsys):
        assert batch(write("a.txt", "a star"), "--quiet") == 0
        assert batch(write("a.txt", "a star", "a ball"), "--quiet", "--json") == 0
        assert [request.spec.prompt for request in server.creates] == ["a star", "a ball"]
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["skipped"] == 1
        (video,) = (tmp_path / "out").glob("a-star-*.npy")
        video.unlink()
        assert batch(write("a.txt", "a star", "a ball"), "--quiet") == 0
        assert [request.spec.prompt for request in server.creates] == ["a star", "a ball", "a star"]
        assert server.creates[0].request_id == server.creates[2].request_id

    def test_nothing_left_needs_no_server(self, batch, server, write, capsys):
        path = write("a.txt", "a star")
        assert batch(path, "--quiet") == 0
        server.stop()
        assert batch(path, "--quiet") == 0
        assert capsys.readouterr() == ("", "")
        server.restart()

    def test_files_of_another_video_are_not_overwritten(self, batch, server, write, tmp_path, capsys):
        assert batch(write("a.jsonl", {"prompt": "a star", "name": "x"}), "--quiet") == 0
        before = (tmp_path / "out" / "x.json").read_bytes()
        assert batch(write("a.jsonl", {"prompt": "a ball", "name": "x"}), "--quiet") == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("vinf batch: ")
        assert "x.json is that of another video than line 1 asks for; choose another name, or remove it" in line
        assert (tmp_path / "out" / "x.json").read_bytes() == before
        assert len(server.creates) == 1

    def test_one_refusal_does_not_stop_the_others(self, batch, server, write, tmp_path, capsys):
        refusal = Failure(
            grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", violations=(("spec.prompt", "'zebra' is no known word"),)
        )
        server.create_failures.append(refusal)
        path = write("a.jsonl", {"prompt": "a zebra", "name": "zebra"}, {"prompt": "a ball", "name": "ball"})
        assert batch(path, "--in-flight", "1") == 2
        first, second, *end = capsys.readouterr().err.splitlines()
        assert first == "vinf: 1 of 2: zebra: failed: prompt: 'zebra' is no known word"
        assert second.startswith("vinf: 2 of 2: ball: 7 frames in ")
        assert end == [
            f"vinf: {tmp_path / 'out'}: 1 saved of 2 videos",
            "vinf batch: 1 of 2 failed; --retry-failed makes them anew:",
            "  zebra (line 1): prompt: 'zebra' is no known word",
        ]
        (line,) = (tmp_path / "out" / "failures.jsonl").read_text().splitlines()
        assert json.loads(line)["reason"] == "INVALID_FIELD"
        assert batch(path, "--quiet") == 0
        assert not (tmp_path / "out" / "failures.jsonl").exists()

    def test_a_token_that_is_refused_stops_the_batch(self, batch, server, write, capsys):
        server.create_failures.append(Failure(grpc.StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED", "it has expired"))
        assert batch(write("a.txt", "a", "b", "c"), "--in-flight", "1") == 2
        lines = capsys.readouterr().err.splitlines()
        assert lines[-2].endswith("0 saved, 3 left of 3 videos; the same command again goes on")
        assert lines[-1].startswith("vinf batch: ")
        assert "it has expired" in lines[-1]
        assert len(server.creates) == 1

    def test_a_full_queue_is_waited_for(self, batch, server, write, capsys):
        full = Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", "4 wait", retry_after=0.01)
        server.create_failures += [full] * 3
        assert batch(write("a.txt", "a star"), "--in-flight", "1") == 0
        assert len({request.request_id for request in server.creates}) == 1
        assert "vinf: waiting for room in the server's queue" in capsys.readouterr().err

    def test_saved_ones_are_deleted_where_that_is_wanted(self, batch, server, write):
        assert batch(write("a.txt", "a star"), "--quiet", "--delete") == 0
        assert server.deletes == ["gen-1"]

    def test_folders_of_pictures(self, server, vinf, write, tmp_path):
        path = write("a.jsonl", {"prompt": "a", "name": "v1.5"})
        options = ["--format", "png", "--server", server.address, "--quiet"]
        assert vinf("batch", str(path), "-o", str(tmp_path / "out"), *options) == 0
        assert names_in(tmp_path / "out") == ["v1.5", "v1.5.json", "v1.5.txt"]
        assert len(names_in(tmp_path / "out" / "v1.5")) == 7
        assert vinf("batch", str(path), "-o", str(tmp_path / "out"), *options) == 0
        assert len(server.creates) == 1

    def test_what_a_killed_batch_left_is_removed_and_nothing_else(self, batch, server, write, tmp_path):
        out = tmp_path / "out"
        out.mkdir()
        for name in (".v1.npy.0123abcd.partial", ".v1.5.npy.0123abcd.partial", ".v1.json.0123abcd.partial", "mine"):
            (out / name).touch()
        assert batch(write("a.jsonl", {"prompt": "a", "name": "v1"}), "--quiet") == 0
        assert names_in(out) == [".v1.5.npy.0123abcd.partial", "mine", "v1.json", "v1.npy", "v1.txt"]

    def test_a_generation_that_failed(self, batch, server, write, capsys):
        error = pb.GenerationError(code=14, reason="WORKER_LOST", message="rank 1 died")
        server.ends.append(service_pb.StreamEnd(state=pb.GENERATION_STATE_FAILED, error=error, next_frame_index=7))
        assert batch(write("a.txt", "a star"), "--quiet") == 4
        assert "(line 1): rank 1 died" in capsys.readouterr().err

    def test_what_failed_before_the_server_could_say_so_is_not_made_anew(self, batch, server, write):
        failed = pb.GENERATION_STATE_FAILED
        server.create_replies += [(failed, True), (failed, False)]  # of an earlier run, and of this one
        batch(write("a.txt", "a star"), "--quiet", "--retry-failed")
        assert len(server.creates) == 2


@pytest.mark.fast
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.jsonl", "-o", "out"], "none.jsonl: cannot be read: No such file or directory"),
        (["a.csv", "-o", "out"], "a.csv: is not a list of prompts; allowed: a name that ends in .jsonl or .txt"),
        (["empty.txt", "-o", "out"], "empty.txt: has no prompt in it"),
        (["binary.txt", "-o", "out"], "binary.txt: is not UTF-8 text (byte 0)"),
        (["fine.txt"], "the following arguments are required: -o/--output"),
        (["fine.txt", "-o", "fine.txt"], "cannot be written"),
        (["fine.txt", "-o", "out", "--in-flight", "0"], "--in-flight: 0 is not allowed; allowed: [1, 64]"),
        (["fine.txt", "-o", "out", "--format", "avi"], "--format: invalid choice: 'avi' (choose from"),
        (["fine.txt", "-o", "out", "--frames", "0"], "frames: 0 is not allowed; allowed: at least 1"),
        (["fine.txt", "-o", "out", "--server", "here"], "--server: must be HOST:PORT"),
    ],
)
def test_bad_arguments_are_one_line(vinf, tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fine.txt").write_text("a star\n")
    (tmp_path / "a.csv").touch()
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe")
    assert vinf("batch", *arguments) == 2
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert out == ""
    assert line.startswith("vinf batch: ")
    assert words in line


@pytest.mark.fast
def test_nobody_there(vinf, write, tmp_path, capsys):
    arguments = ["-o", str(tmp_path / "out"), "--server", "127.0.0.1:1"]
    assert vinf("batch", str(write("a.txt", "a star")), *arguments) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("vinf batch: cannot reach a vinf server at 127.0.0.1:1: connection refused")


@pytest.mark.process
class TestRealServer:
    @pytest.fixture
    def front(self, scripted, vinf, capsys):
        """A front, and what it knows: prompts by state."""
        _, self.address = scripted("--max-waiting", "2")

        def known():
            capsys.readouterr()
            assert vinf("list", "--server", self.address, "--json") == 0
            return json.loads(capsys.readouterr().out)

        self.known = known
        yield self.address
        for generation in known():
            vinf("cancel", generation["generation_id"], "--server", self.address)

    def arguments(self, path, tmp_path, *more):
        options = ["-o", str(tmp_path / "out"), "--format", "npy", "--frames", "4", "--server", self.address]
        return ["batch", str(path), *options, *more]

    @contextlib.contextmanager
    def running(self, path, tmp_path, *more):
        """The command as a process; its lines arrive at once."""
        process = subprocess.Popen(
            [sys.executable, "-m", "vinf_client.cli", *self.arguments(path, tmp_path, *more)],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()
            process.stderr.close()

    def states(self, prompt):
        return [entry["state"] for entry in self.known() if entry["spec"]["prompt"] == prompt]

    def test_killed_and_called_again(self, front, vinf, write, tmp_path, capsys):
        path = write(
            "a.jsonl", {"prompt": "a red circle", "seed": 5, "name": "done"}, {"prompt": "slow", "name": "slow"}
        )
        with self.running(path, tmp_path) as process:
            wait_until(lambda: (tmp_path / "out" / "done.json").exists(), what="the first video")
            wait_until(lambda: self.states("slow") == ["running"], what="the second one")
            wait_until(lambda: list((tmp_path / "out").glob(".slow.npy.*")), what="its reader")
            os.kill(process.pid, signal.SIGKILL)
            process.wait(TIMEOUT_S)
        (left,) = (tmp_path / "out").glob(".slow.npy.*")
        video = np.load(tmp_path / "out" / "done.npy")
        assert [frame.tobytes() for frame in video] == [frame_bytes(5, index, 64 * 64 * 3) for index in range(4)]

        with self.running(path, tmp_path) as process:  # finds the one that runs, and hears of its end
            wait_until(
                lambda: left not in (files := set((tmp_path / "out").glob(".slow.npy.*"))) and files, what="a reader"
            )
            (slow,) = [entry for entry in self.known() if entry["spec"]["prompt"] == "slow"]
            assert vinf("cancel", slow["generation_id"], "--server", front) == 0
            assert process.wait(TIMEOUT_S) == 4
            assert "slow (line 2): " in process.stderr.read()
        assert self.states("slow") == ["cancelled"]

        with self.running(path, tmp_path) as process:  # what was cancelled is made anew; Ctrl-C cancels it
            wait_until(lambda: self.states("slow") == ["running", "cancelled"], what="another one")
            wait_until(lambda: list((tmp_path / "out").glob(".slow.npy.*")), what="its reader")
            os.kill(process.pid, signal.SIGINT)
            assert process.wait(TIMEOUT_S) == 130
            *_, summary, last = process.stderr.read().splitlines()
            assert summary.endswith("0 saved, 1 done before, 1 left of 2 videos; the same command again goes on")
            assert last == "vinf batch: interrupted"
        wait_until(lambda: self.states("slow") == ["cancelled", "cancelled"], what="its end")
        assert names_in(tmp_path / "out") == ["done.json", "done.npy", "done.txt"]

    def test_two_in_one_folder(self, front, vinf, write, tmp_path, capsys):
        path = write("a.txt", "slow")
        with self.running(path, tmp_path):
            wait_until(lambda: self.states("slow"), what="the first one's video")
            assert vinf(*self.arguments(path, tmp_path)) == 2
        out = tmp_path / "out"
        assert capsys.readouterr().err == (
            f"vinf batch: {out}: another vinf batch works there; choose another folder\n"
        )

    def test_failed_ones_are_made_anew_only_where_that_is_wanted(self, front, vinf, write, tmp_path):
        path = write("a.txt", "a circle", "fail")
        for more, tries in (([], 1), ([], 1), (["--retry-failed"], 2), (["--retry-failed"], 3)):
            assert vinf(*self.arguments(path, tmp_path, *more)) == 4
            assert self.states("fail") == ["failed"] * tries
        assert self.states("a circle") == ["succeeded"]

    def test_more_than_the_queue_takes(self, front, vinf, write, tmp_path):
        for _ in range(3):
            assert vinf("generate", "slow", "--detach", "--quiet", "--server", front) == 0
        with self.running(write("a.txt", *["a circle"] * 5), tmp_path, "--in-flight", "3") as process:
            assert process.stderr.readline() == "vinf: waiting for room in the server's queue\n"
            for entry in self.known():
                assert vinf("cancel", entry["generation_id"], "--server", front) == 0
            assert process.wait(TIMEOUT_S) == 0
        assert len(list((tmp_path / "out").glob("*.npy"))) == 5

    def test_the_server_is_gone_for_a_while(self, front_process, write, tmp_path):
        first = front_process(*QUICK_AGENT)
        self.address = first.wait_ready()["listen"]
        with self.running(write("a.txt", "a circle", "hang", "a square"), tmp_path, "--in-flight", "1") as process:
            assert process.stderr.readline().startswith("vinf: 1 of 3: a-circle-")
            wait_until(lambda: list((tmp_path / "out").glob(".hang-*.npy.*")), what="the second one's reader")
            os.kill(first.process.pid, signal.SIGKILL)
            first.wait()
            first.ready_file.unlink()
            front_process(*QUICK_AGENT, "--listen", self.address).wait_ready()
            assert process.wait(TIMEOUT_S) == 0
        assert len(list((tmp_path / "out").glob("*.npy"))) == 3

    def test_bars_on_a_terminal(self, front, write, tmp_path):
        path = write("a.txt", "a circle", "slow")
        with Terminal(*self.arguments(path, tmp_path), "--in-flight", "1", size=(120, 30)) as terminal:
            terminal.expect("videos", "1 of 2", "slow-", "decoding, frame 1 of 4")
            terminal.press(b"\x03")
            assert terminal.wait() == 130
            assert terminal.is_as_it_was()
            assert terminal.text.rstrip().endswith("vinf batch: interrupted")
