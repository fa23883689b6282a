"""`vinf generate` against a scripted server: files, figures, one-line errors, exit codes."""

import json
import os
import signal
import sys
import threading

import grpc
import numpy as np
import pytest
from PIL import Image

from tests.client.fakes import Break, Failure
from vinf.v1 import generation_pb2 as pb
from vinf.v1 import video_generation_service_pb2 as service_pb
from vinf_client.cli import main
from vinf_client.progress import PlainDisplay

pytestmark = pytest.mark.fast


@pytest.fixture
def generate(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def call(*arguments, prompt="a red ball", output="a.npy"):
        return main(["generate", prompt, "-o", output, "--server", server.address, *arguments])

    return call


def error_lines(capsys):
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return err.splitlines()


def test_file_sheet_and_figures(generate, server, capsys):
    server.clips = ((0, 4), (4, 3))
    assert generate("--json", "--sheet", "sheet.png", "--frames", "7") == 0
    np.testing.assert_array_equal(np.load("a.npy"), server.video())
    with Image.open("sheet.png") as picture:
        assert picture.format == "PNG"
    out, err = capsys.readouterr()
    figures = json.loads(out)
    assert out.count("\n") == 1
    seconds = figures.pop("seconds")
    assert 0 < figures.pop("seconds_to_first_frame") <= seconds
    assert figures.pop("seconds_waiting") >= 0
    assert figures.pop("frames_per_second") == pytest.approx(7 / seconds, rel=1e-3)
    assert figures.pop("resolved_spec")["inference_step_count"] == 20
    assert figures == {
        "generation_id": "gen-1",
        "state": "succeeded",
        "model": "sprites",
        "seed": 77,
        "frames": 7,
        "width": 20,
        "height": 10,
        "frame_rate": 12,
        "ranks": 2,
        "clips": [4, 3],
        "peak_rank_memory_bytes": [1000, 1000],
        "output": "a.npy",
        "sheet": "sheet.png",
    }
    assert err.splitlines()[-1].startswith("vinf: a.npy: 7 frames in ")
    assert "on 2 ranks (4 + 3)" in err


def test_quiet_says_nothing(generate, capsys):
    assert generate("--quiet", output="a.mp4") == 0
    assert capsys.readouterr() == ("", "")
    assert os.path.getsize("a.mp4") > 0


def test_options_reach_the_server(generate, server):
    options = "--frames 96 --seed 7 --width 64 --height 48 --steps 10 --guidance 3 --model sprites --fps 24"
    scope = "--solver ddim --window 8 --global-frames 4 --phase-timestep 300 --phase-bias 0 --quiet"
    kinds = "--initial-noise freenoise --global-choice key-frames"
    assert generate(*options.split(), *scope.split(), *kinds.split(), "--negative-prompt", "blue sky") == 0
    spec = server.creates[0].spec
    assert (spec.frame_count, spec.seed, spec.width, spec.height, spec.inference_step_count) == (96, 7, 64, 48, 10)
    assert spec.temporal_scope == pb.TemporalScope(
        mode=pb.TEMPORAL_SCOPE_MODE_CUSTOM,
        local_window_frames=8,
        global_frames=4,
        phase_timestep=300,
        initial_noise=pb.INITIAL_NOISE_FREENOISE,
        global_choice=pb.GLOBAL_CHOICE_KEY_FRAMES,
    )


def test_an_overlap_excludes_the_options_of_the_dual_scope(generate, server, capsys):
    assert generate("--overlap", "6", "--initial-noise", "freenoise", "--quiet") == 0
    assert server.creates[0].spec.temporal_scope.overlap_frames == 6
    assert generate("--overlap", "0", "--window", "8", "--quiet") == 0
    scope = "--window 8 --global-frames 0 --phase-timestep 300 --phase-bias 0 --global-choice even --global-across-cuts"
    assert generate("--overlap", "6", *scope.split()) == 2
    said = capsys.readouterr().err
    for option in ("window", "global-frames", "phase-timestep", "phase-bias", "global-choice", "global-across-cuts"):
        assert f"--{option}: must not be given with an overlap of 6 frames, which takes its place" in said
    assert "--initial-noise" not in said
    assert [create.validate_only for create in server.creates] == [False, False, True]


def test_images_reach_the_server(generate, server, tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(name.encode())
    assert generate("--image", "a.png", "--end-image", "b.png", "--quiet") == 0
    assert generate("--end-image", "b.png", "--frames", "7", "--quiet") == 0
    sent = [
        [(condition.frame_index, condition.image) for condition in create.spec.image_conditions]
        for create in server.creates
    ]
    assert sent == [[(0, b"a.png"), (15, b"b.png")], [(6, b"b.png")]]


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (["--image", "none.png"], ["vinf generate: --image: none.png cannot be read: No such file or directory"]),
        (["--end-image", "."], ["vinf generate: --end-image: . is a folder; allowed: a PNG or JPEG file"]),
        (
            ["--image", "large.png"],
            ["vinf generate: --image: the files have 1099511627776 bytes; allowed: at most 15728640 together"],
        ),
        (
            ["--image", "none.png", "--end-image", "", "--frames", "0"],
            [
                "vinf generate: 3 things to mend:",
                "  --frames: 0 is not allowed; allowed: [1, 4096] (leave it out for the server's default)",
                "  --image: none.png cannot be read: No such file or directory",
                "  --end-image: '' cannot be read: No such file or directory",
            ],
        ),
    ],
    ids=["missing", "folder", "too large", "both"],
)
def test_images_that_cannot_be_sent(generate, server, capsys, tmp_path, arguments, lines):
    with open(tmp_path / "large.png", "wb") as file:
        file.truncate(1 << 40)
    assert generate(*arguments) == 2
    assert error_lines(capsys) == lines
    assert all(request.validate_only for request in server.creates)


def test_the_servers_words_about_images_carry_the_names_of_options(generate, server, capsys, tmp_path):
    (tmp_path / "a.png").write_bytes(b"GIF89a")
    for path, option in (("", "--end-image"), ("[0].image", "--end-image"), ("[0].frame_index", "--end-image")):
        violation = (f"spec.image_conditions{path}", "is none")
        failure = Failure(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", violations=(violation,))
        server.create_failures.append(failure)
        assert generate("--end-image", "a.png", "--quiet") == 2
        assert error_lines(capsys) == [f"vinf generate: {option}: is none"]


def test_the_environment_names_the_server(server, tmp_path, monkeypatch):
    monkeypatch.setenv("VINF_SERVER", server.address)
    assert main(["generate", "a red ball", "-o", str(tmp_path / "a.npy"), "--quiet"]) == 0


def test_no_server(tmp_path, capsys):
    assert main(["generate", "x", "-o", str(tmp_path / "a.npy"), "--server", "127.0.0.1:1", "--quiet"]) == 3
    assert error_lines(capsys) == [
        "vinf generate: cannot reach a vinf server at 127.0.0.1:1: connection refused; "
        "is it running? (vinf serve starts one)"
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--frames", "0"], "--frames: 0 is not allowed; allowed: [1, 4096]"),
        (["--frames", "-1"], "--frames: -1 is not allowed; allowed: [1, 4096]"),
        (["--frames", "many"], "--frames: invalid int value: 'many'"),
        (["--width", "0"], "--width: 0 is not allowed; allowed: [32, 128], a multiple of 8"),
        (["--guidance", "nan"], "--guidance: nan is not allowed; allowed: [1, 50]"),
        (["--fps", "0"], "--fps: 0 is not allowed; allowed: a rate in [1, 240]"),
        (["--solver", "euler"], "--solver: 'euler' is not allowed; allowed: ddim, dpm++, flow-euler"),
        (["--seed", "-5"], "--seed: -5 is not allowed; allowed: [0, 9223372036854775807]"),
        (["--ranks", "2"], "--ranks: needs --local"),
        (["--model-base", "x"], "--model-base: needs --local"),
        (["--local"], "--local: cannot be combined with --server"),
        (["--wait-ready", "nan"], "--wait-ready: nan is not allowed"),
        (["--sheet", "a.jpg"], "'a.jpg' is not a contact sheet; allowed: a name that ends in .png"),
        (["--fram", "3"], "unrecognized arguments"),
    ],
)
def test_bad_options_are_one_line(generate, server, capsys, arguments, words):
    try:
        code = generate(*arguments, "--quiet")
    except SystemExit as exit_:
        code = exit_.code
    assert code == 2
    (line,) = error_lines(capsys)
    assert line.startswith("vinf generate: ")
    assert words in line
    assert all(request.validate_only for request in server.creates)


def test_empty_prompt(generate, capsys):
    assert generate("--quiet", prompt=" ") == 2
    assert error_lines(capsys) == ["vinf generate: PROMPT: must not be empty; allowed: [1, 200] characters"]


@pytest.mark.parametrize("output", ["a.avi", "/proc/none/a.mp4"])
def test_bad_outputs_are_told_before_any_work(generate, server, capsys, output):
    assert generate(output=output) == 2
    (line,) = error_lines(capsys)
    assert output in line
    assert all(request.validate_only for request in server.creates)


def test_all_mistakes_are_told_at_once(generate, server, capsys):
    server.validate_failure = Failure(
        grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", violations=(("priority", "must be in [0, 9], got 12"),)
    )
    options = "--sheet a.jpg --frames 0 --height 0 --priority 12"
    assert generate(*options.split(), output="a.avi") == 2
    head, *lines = error_lines(capsys)
    assert head == "vinf generate: 5 things to mend:"
    assert [line.split(" is ")[0].split(" must ")[0] for line in lines] == [
        "  'a.avi'", "  'a.jpg'", "  --frames: 0", "  --height: 0", "  --priority:",
    ]  # fmt: skip
    assert all(request.validate_only for request in server.creates)


@pytest.mark.parametrize("where", [["--server", "127.0.0.1:1"], ["--local"]], ids=["nobody there", "local"])
def test_mistakes_in_outputs_need_no_server(where, capsys):
    options = ["-o", "a.avi", "--sheet", "a.jpg", "--frames", "0"]
    assert main(["generate", "x", *options, *where]) == 2
    assert error_lines(capsys)[0] == "vinf generate: 3 things to mend:"


def test_the_servers_violations_carry_the_names_of_options(generate, server, capsys):
    server.create_failures.append(
        Failure(
            grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD",
            violations=(("spec.width", "33 is not a multiple of 8"), ("spec.prompt", "'zebra' is no known word")),
        )
    )  # fmt: skip
    assert generate("--width", "33", "--quiet") == 2
    assert error_lines(capsys) == [
        "vinf generate: 2 things to mend:",
        "  --width: 33 is not a multiple of 8",
        "  PROMPT: 'zebra' is no known word",
    ]


def test_what_does_not_fit_is_one_line(generate, server, capsys):
    problem = (
        "must be in [1, 20] frames at 64 x 64 pixels, got 96; a rank would need 128.00 MiB of memory and has 52.00 MiB"
    )
    server.create_failures.append(
        Failure(grpc.StatusCode.INVALID_ARGUMENT, "SPEC_TOO_LARGE", violations=(("spec.frame_count", problem),))
    )
    assert generate("--frames", "96", "--quiet") == 2
    assert error_lines(capsys) == [f"vinf generate: --frames: {problem}"]
    assert os.listdir() == []


@pytest.mark.parametrize(
    ("failure", "code", "words"),
    [
        (Failure(grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", "there is no x"), 2, "--model: there is no x"),
        (Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", "4 wait"), 5, "4 wait"),
        (Failure(grpc.StatusCode.UNAVAILABLE, "WORKERS_NOT_READY", "not yet"), 5, "not yet"),
        (Failure(grpc.StatusCode.INTERNAL, "INTERNAL", "a bug"), 1, "a bug"),
    ],
    ids=["model", "queue", "ranks", "internal"],
)
def test_exit_codes(generate, server, capsys, failure, code, words):
    server.create_failures.append(failure)
    assert generate("--quiet", "--wait-ready", "0") == code
    assert error_lines(capsys) == [f"vinf generate: {words}"]


def test_a_missing_codec_is_told_before_any_request(generate, server, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    assert generate(output="a.mp4") == 2
    assert error_lines(capsys) == ["vinf generate needs the client extra: pip install 'vinf[client]' (av is missing)"]
    assert not server.creates


def test_outside_the_main_thread(generate):
    codes = []
    thread = threading.Thread(target=lambda: codes.append(generate("--quiet")))
    thread.start()
    thread.join(30)
    assert codes == [0]


def test_waiting_for_the_ranks_is_visible(generate, server, capsys):
    server.create_failures.append(Failure(grpc.StatusCode.UNAVAILABLE, "WORKERS_NOT_READY", retry_after=0.01))
    assert generate() == 0
    assert "vinf: waiting for the ranks" in capsys.readouterr().err


def test_a_failed_generation(generate, server, capsys):
    error = pb.GenerationError(code=14, reason="WORKER_LOST", message="rank 1 died")
    server.ends.append(service_pb.StreamEnd(state=pb.GENERATION_STATE_FAILED, error=error, next_frame_index=7))
    assert generate("--quiet") == 4
    assert error_lines(capsys) == ["vinf generate: rank 1 died"]
    assert os.listdir() == []


def test_a_break_in_the_stream_costs_nothing(generate, server, capsys):
    server.breaks.append(Break(3, part_bytes=100))
    assert generate() == 0
    assert "vinf: the connection broke, trying again" in capsys.readouterr().err
    np.testing.assert_array_equal(np.load("a.npy"), server.video())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_one_signal_cancels_and_exits(generate, server, capsys, number, code):
    server.hold_after = 3
    before = signal.getsignal(number)

    def interrupt():
        server.holding.wait(60)  # on a busy machine late rather than never
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert generate("--quiet") == code
    thread.join(60)
    assert server.cancelled.is_set()
    assert len(error_lines(capsys)) == 1
    assert os.listdir() == []
    assert signal.getsignal(number) is before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_wait_for_ranks(generate, server, capsys, monkeypatch, number, code):
    server.create_failures.append(Failure(grpc.StatusCode.UNAVAILABLE, "WORKERS_NOT_READY", retry_after=3600))
    monkeypatch.setattr(PlainDisplay, "waiting", lambda *_: os.kill(os.getpid(), number))
    assert generate("--wait-ready", "7200") == code
    assert len(error_lines(capsys)) == 1
    assert len(server.creates) == 1
    assert os.listdir() == []
