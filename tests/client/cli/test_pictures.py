"""`vinf generate` on a terminal: pictures while the video is made, and the terminal as it was afterwards."""

import io
import signal
import threading

import pytest
from PIL import Image

from tests.client.cli.ptys import Terminal
from tests.client.fakes import FakeServer
from vinf.v1 import generation_pb2 as pb
from vinf.v1 import video_generation_service_pb2 as service_pb
from vinf_client import Client, testing

pytestmark = pytest.mark.process

SIXEL = b"\x1bP0;1;0q"
KITTY = b"\x1b_Ga=T,f=100"
BLOCK = "▀"


class PreviewServer(FakeServer):
    """Shows red estimates for as long as it holds the first frame back."""

    def reset(self):
        super().reset()
        self.hold_after = 0
        self.with_previews = []
        self.asked_to_cancel, self.hears = threading.Event(), threading.Event()
        self.hears.set()

    def CancelGeneration(self, request, context):
        self.asked_to_cancel.set()
        assert self.hears.wait(60)
        return super().CancelGeneration(request, context)

    def WatchGeneration(self, request, context):
        self._check(request, context)
        self.watches.append(request.after_sequence)
        self.with_previews.append(request.with_previews)
        running = self.generation(pb.GENERATION_STATE_RUNNING)
        running.progress.stage, running.progress.completed_step_count = pb.GENERATION_STAGE_DENOISE, 5
        running.progress.completed_frame_count = 0
        previews = [
            service_pb.Preview(frame_index=index, completed_step_count=5, width=8, height=8, jpeg_data=_jpeg())
            for index in (0, 3)
            if request.with_previews
        ]
        yield service_pb.WatchGenerationResponse(generation=running, previews=previews)
        assert self.released.wait(60)
        yield service_pb.WatchGenerationResponse(generation=self.generation())


def _jpeg():
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (250, 10, 10)).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def server():
    fake = PreviewServer()
    yield fake
    fake.stop()


@pytest.fixture
def generate(server, tmp_path):
    def start(*arguments, **options):
        output = str(tmp_path / "a.npy")
        return Terminal("generate", "a red ball", "-o", output, "--server", server.address, *arguments, **options)

    return start


def test_estimates_then_frames_then_nothing(generate, server):
    with generate() as terminal:
        terminal.expect("denoising, step 5 of 20", BLOCK, b"38;2;2")  # red
        before = len(terminal.output)
        server.released.set()
        assert terminal.wait() == 0
        after = terminal.output[before:]
        assert BLOCK.encode() in after, "frames, too"
        assert b"a.npy: 7 frames in " in after
        assert terminal.is_as_it_was()
        erased, summary = after.rsplit(b"\x1b[J", 1)
        assert BLOCK.encode() not in summary
        assert erased.endswith(b"A"), "from the first row of the picture on"
    (request,) = server.creates
    assert request.preview_interval_steps == 5
    assert server.with_previews == [True]


@pytest.mark.parametrize(
    ("options", "sign"),
    [
        ({"environ": {"KITTY_WINDOW_ID": "1"}}, KITTY),
        ({"environ": {"TERM": "xterm-ghostty"}}, KITTY),
        ({"environ": {"TERM_PROGRAM": "WezTerm"}}, SIXEL),
        ({"attributes": b"\x1b[?62;4;22c"}, SIXEL),
        ({"attributes": b"\x1b[?62;22;44c"}, BLOCK.encode()),
        ({"attributes": None}, BLOCK.encode()),
        ({"environ": {"KITTY_WINDOW_ID": "1", "TMUX": "/tmp/x"}}, BLOCK.encode()),
    ],
    ids=["kitty", "ghostty", "WezTerm", "says sixel", "says no sixel", "says nothing", "kitty behind tmux"],
)
def test_the_terminal_decides(generate, server, options, sign):
    with generate(**options) as terminal:
        terminal.expect(sign)
        server.released.set()
        assert terminal.wait() == 0
        assert terminal.is_as_it_was()
        assert [other in terminal.output for other in (KITTY, SIXEL, BLOCK.encode())].count(True) == 1
        if sign == KITTY:
            assert terminal.output.count(b"\x1b_Ga=d,d=I") == 1, "the picture is taken away"


@pytest.mark.parametrize(("wanted", "sign"), [("kitty", KITTY), ("sixel", SIXEL), ("blocks", BLOCK.encode())])
def test_the_option_decides(generate, server, wanted, sign):
    with generate("--preview", wanted, "--preview-every", "2") as terminal:
        terminal.expect(sign)
        server.released.set()
        assert terminal.wait() == 0
        assert b"\x1b[c" not in terminal.output, "nothing is asked"
    assert server.creates[0].preview_interval_steps == 2


@pytest.mark.parametrize(
    ("arguments", "environ"),
    [(["--preview", "none"], {}), ([], {"TERM": "dumb"}), ([], {"NO_COLOR": "1"}), (["--quiet"], {})],
    ids=["none", "dumb", "no colours", "quiet"],
)
def test_no_pictures(generate, server, arguments, environ):
    server.released.set()
    with generate(*arguments, environ=environ) as terminal:
        assert terminal.wait() == 0
        assert not any(sign in terminal.output for sign in (KITTY, SIXEL, BLOCK.encode()))
    assert server.creates[0].preview_interval_steps == 0


def test_only_frames_when_estimates_are_not_wanted(generate, server):
    server.released.set()
    with generate("--preview-every", "0") as terminal:
        assert terminal.wait() == 0
        assert BLOCK.encode() in terminal.output
    assert server.creates[0].preview_interval_steps == 0


def test_a_small_terminal_has_a_line_only(generate, server):
    with generate(size=(40, 5)) as terminal:
        terminal.expect("denoising")
        server.released.set()
        assert terminal.wait() == 0
        assert BLOCK.encode() not in terminal.output


def test_a_window_that_shrinks(generate, server):
    with generate() as terminal:
        terminal.expect(BLOCK)
        terminal.resize(30, 12)
        server.released.set()
        assert terminal.wait() == 0
        assert terminal.is_as_it_was()


def test_ctrl_c_cancels_and_leaves_the_terminal_as_it_was(generate, server):
    with generate() as terminal:
        terminal.expect(BLOCK)
        terminal.press(b"\x03")
        assert terminal.wait() == 128 + signal.SIGINT
        assert server.cancelled.is_set()
        assert terminal.is_as_it_was()
        assert terminal.text.rstrip().endswith("vinf generate: interrupted")


def test_ctrl_c_twice_does_not_wait_for_the_server(generate, server):
    server.hears.clear()
    with generate() as terminal:
        terminal.expect(BLOCK)
        terminal.press(b"\x03")
        assert server.asked_to_cancel.wait(60)
        terminal.press(b"\x03")
        assert terminal.wait() == 128 + signal.SIGINT
        assert not server.cancelled.is_set()
        assert "interrupted" not in terminal.text, "nothing is done in good order any more"
    server.hears.set()


def test_pictures_never_go_to_a_file(server, tmp_path, vinf, capsys):
    server.released.set()
    assert vinf("generate", "a ball", "-o", str(tmp_path / "a.npy"), "--server", server.address, "--preview=kitty") == 0
    assert "\x1b" not in capsys.readouterr().err
    assert server.creates[0].preview_interval_steps == 0


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--preview=ascii", "--preview: invalid choice: 'ascii' (choose from"),
        ("--preview-every=-1", "--preview-every: -1 is not allowed; allowed: [0, 1000]"),
        ("--preview-every=x", "--preview-every: invalid int value: 'x'"),
    ],
)
def test_bad_options_are_one_line(vinf, capsys, option, words):
    assert vinf("generate", "a ball", "-o", "a.npy", option) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"vinf generate: {words}")


class TestWatch:
    """`vinf watch` shows what `vinf generate` would, and its lines stay above the picture."""

    @pytest.fixture
    def fake(self):
        with WatchedServer() as server:
            yield server

    @pytest.fixture
    def client(self, fake):
        with Client(fake.address, token="", tls=False) as made:
            yield made

    @pytest.mark.parametrize(
        ("script", "sign"),
        [({"step_seconds": 1.0}, "denoising, step"), ({"frame_rate": 10}, "decoding, frame")],
        ids=["estimates", "frames"],
    )
    def test_pictures_below_the_events(self, fake, client, script, sign):
        fake.reset(**script)
        handle = client.submit("a red ball", steps=200, frames=1000, preview_every=1)
        with Terminal("watch", handle.generation_id, "--server", fake.address) as terminal:
            terminal.expect("  running\r\n", sign, BLOCK)
            handle.cancel()
            terminal.expect("  cancelled\r\n")
            assert terminal.wait() == 4
            assert terminal.is_as_it_was()
            lines = terminal.output.rsplit(b"\x1b[J", 1)[1]
            assert BLOCK.encode() not in lines, "the picture is taken away"
            assert terminal.output.count(b"  running\r\n") == 1
        assert fake.wait_for_calls(0)

    @pytest.mark.parametrize("arguments", [["--preview", "none"], ["--quiet"]], ids=lambda words: words[0])
    def test_no_pictures(self, fake, client, arguments):
        handle = client.submit("a red ball", frames=4, preview_every=1)
        with Terminal("watch", handle.generation_id, "--server", fake.address, *arguments) as terminal:
            assert terminal.wait() == 0
            assert BLOCK.encode() not in terminal.output
        assert fake.asked_for_previews == [False]
        assert fake.pulled == 0


class WatchedServer(testing.FakeServer):
    """Remembers who asked for pictures."""

    def __init__(self):
        super().__init__()
        self.asked_for_previews = []
        self.pulled = 0

    def WatchGeneration(self, request, context):
        self.asked_for_previews.append(request.with_previews)
        yield from super().WatchGeneration(request, context)

    def PullFrames(self, request, context):
        self.pulled += 1
        return super().PullFrames(request, context)
