"""`vinf generate --story`: good files reach the server, bad ones are one line."""

import json

import grpc
import pytest
from PIL import Image

from tests.client.fakes import Failure
from vinf.v1 import generation_pb2 as pb
from vinf_client.cli import main

pytestmark = pytest.mark.fast

GOOD = {
    "prompt": "a red ball bouncing over the sea",
    "negative_prompt": "fog",
    "segments": [
        {"start_frame": 2, "prompt": "a star", "transition_frames": 2},
        {"start_frame": 5, "prompt": "a box", "cut": True},
    ],
}
SENT = [
    pb.PromptSegment(start_frame_index=2, prompt="a star", transition_frame_count=2),
    pb.PromptSegment(start_frame_index=5, prompt="a box", cut=True),
]


@pytest.fixture
def tell(server, tmp_path, monkeypatch):
    """Write a story file and run the command with it; returns the exit code."""
    monkeypatch.chdir(tmp_path)

    def call(story, *arguments):
        if isinstance(story, bytes):
            (tmp_path / "story.json").write_bytes(story)
        elif story is not None:
            (tmp_path / "story.json").write_text(story if isinstance(story, str) else json.dumps(story))
        command = ["generate", "--story", "story.json", "-o", "a.npy", "--server", server.address, "--quiet"]
        try:
            return main([*command, *arguments])
        except SystemExit as exit_:
            return exit_.code

    return call


def error_lines(capsys):
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return err.splitlines()


def test_a_story_reaches_the_server(tell, server, capsys):
    assert tell(GOOD, "--frames", "7", "--global-across-cuts") == 0
    spec = server.creates[0].spec
    assert (spec.prompt, spec.negative_prompt) == ("a red ball bouncing over the sea", "fog")
    assert list(spec.prompt_segments) == SENT
    assert spec.temporal_scope.global_across_cuts
    assert error_lines(capsys) == []


@pytest.mark.parametrize("story", [{"prompt": "a ball"}, {"prompt": "a ball", "segments": []}])
def test_a_story_of_one_prompt(tell, server, story):
    assert tell(story) == 0
    assert server.creates[0].spec == pb.GenerationSpec(prompt="a ball")


def test_a_file_with_a_byte_order_mark(tell, server):
    assert tell(b'\xef\xbb\xbf{"prompt": "a ball"}') == 0
    assert server.creates[0].spec.prompt == "a ball"


def test_figures_and_sheet_tell_the_story(tell, server, capsys):
    server.segments = SENT
    assert tell(GOOD, "--json", "--sheet", "sheet.png") == 0
    assert json.loads(capsys.readouterr().out)["resolved_spec"]["prompt_segments"] == [
        {"start_frame": 2, "prompt": "a star", "transition_frames": 2, "cut": False},
        {"start_frame": 5, "prompt": "a box", "transition_frames": 0, "cut": True},
    ]
    with Image.open("sheet.png") as picture:
        colours = {colour for _, colour in picture.getcolors(1 << 20)}
    assert {(64, 255, 96), (255, 255, 255)} <= colours


def segment(**fields):
    entry = {"start_frame": 2, "prompt": "a star"} | fields
    return {"prompt": "a ball", "segments": [{"start_frame": 1, "prompt": "a box"}, entry]}


@pytest.mark.parametrize(
    ("story", "words"),
    [
        (None, "cannot be read: No such file or directory"),
        ("", "is not JSON: Expecting value at line 1, column 1"),
        ('{"prompt": "a ball",\n "segments": [}', "is not JSON: Expecting value at line 2, column 15"),
        (b"\xff\xfe", "is not UTF-8 text (byte 0)"),
        ("[" * 100_000, "is not a story: "),
        ('{"prompt": ' + "9" * 5000 + "}", "is not a story: "),
        ('{"prompt": "a", "prompt": "b"}', 'is not a story: the key "prompt" stands there twice'),
        ([], "a list is not allowed; allowed: an object with prompt, negative_prompt, segments"),
        ({}, "prompt: is missing; allowed: text"),
        ({"prompt": 7}, "prompt: 7 is not allowed; allowed: text"),
        ({"prompt": None}, "prompt: null is not allowed; allowed: text"),
        ({"prompt": "a ball", "negative_prompt": False}, "negative_prompt: false is not allowed; allowed: text"),
        (
            {"prompt": "a ball", "frames": 96},
            'the key "frames" is not allowed; allowed: prompt, negative_prompt, segments',
        ),
        ({"prompt": "a ball", "segments": {}}, "segments: an object is not allowed; allowed: a list"),
        (
            {"prompt": "a ball", "segments": ["a star"]},
            'segments[0]: "a star" is not allowed; allowed: an object with start_frame, prompt, transition_frames, cut',
        ),
        (
            segment(transition=3),
            'segments[1]: the key "transition" is not allowed; allowed: start_frame, prompt, transition_frames, cut',
        ),
        (segment(start_frame=0), "segments[1].start_frame: 0 is not allowed; allowed: a whole number, at least 1"),
        (segment(start_frame=2.0), "segments[1].start_frame: 2.0 is not allowed; allowed: a whole number, at least 1"),
        (segment(start_frame=True), "segments[1].start_frame: true is not allowed; allowed: a whole number"),
        (segment(start_frame="2"), 'segments[1].start_frame: "2" is not allowed; allowed: a whole number, at least 1'),
        (
            segment(transition_frames=-1),
            "segments[1].transition_frames: -1 is not allowed; allowed: a whole number, at least 0",
        ),
        (segment(cut=1), "segments[1].cut: 1 is not allowed; allowed: true or false"),
        (segment(prompt=["a"]), "segments[1].prompt: a list is not allowed; allowed: text"),
        ({"prompt": "a ball", "segments": [{"prompt": "x"}]}, "segments[0].start_frame: is missing; allowed: a whole"),
        ({"prompt": "a ball", "segments": [{"start_frame": 1}]}, "segments[0].prompt: is missing; allowed: text"),
        (b" " * ((4 << 20) + 1), "is larger than 4194304 bytes"),
    ],
)  # fmt: skip
def test_bad_files_are_one_line_that_names_file_key_and_value(tell, server, capsys, story, words):
    assert tell(story) == 2
    (line,) = error_lines(capsys)
    assert line.startswith(f"vinf generate: story.json: {words}")
    assert not server.creates


def test_a_bad_file_and_a_bad_output_are_told_at_once(tell, server, capsys):
    assert tell("", "-o", "a.avi") == 2
    head, story, output = error_lines(capsys)
    assert head == "vinf generate: 2 things to mend:"
    assert story.startswith("  story.json: is not JSON")
    assert output.startswith("  'a.avi' is not an output")
    assert not server.creates


def test_a_long_wrong_value_is_cut(tell, capsys):
    assert tell(segment(start_frame="x" * 1000)) == 2
    (line,) = error_lines(capsys)
    assert len(line) < 200
    assert "…" in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a red ball"], "--story: cannot be combined with PROMPT; the file has the prompt"),
        (["--negative-prompt", "fog"], "--story: cannot be combined with --negative-prompt; the file has the prompts"),
    ],
)
def test_a_prompt_beside_the_story_is_refused(tell, server, capsys, arguments, words):
    assert tell(GOOD, *arguments) == 2
    assert error_lines(capsys) == [f"vinf generate: {words} (see vinf generate --help)"]
    assert not server.creates


def test_neither_prompt_nor_story(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["generate", "-o", "a.npy"])
    assert caught.value.code == 2
    assert error_lines(capsys) == [
        "vinf generate: PROMPT: is missing; give it or --story FILE.json (see vinf generate --help)"
    ]


def test_the_servers_violations_name_the_places_in_the_story(tell, server, capsys):
    server.create_failures.append(
        Failure(
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_FIELD",
            violations=(
                ("spec.prompt_segments[1].start_frame_index", "must be in [3, 6], got 2"),
                ("spec.prompt_segments", "must be at most 64 segments, got 65"),
                ("spec.prompt", "has words this model does not know"),
                ("spec.negative_prompt", "has no words"),
                ("spec.frame_count", "must be in [1, 4096]"),
            ),
        )
    )
    assert tell(GOOD) == 2
    assert error_lines(capsys) == [
        "vinf generate: 5 things to mend:",
        "  story: segments[1].start_frame: must be in [3, 6], got 2",
        "  story: segments: must be at most 64 segments, got 65",
        "  story: prompt: has words this model does not know",
        "  story: negative_prompt: has no words",
        "  --frames: must be in [1, 4096]",
    ]


def test_an_empty_prompt_in_the_story(tell, capsys):
    assert tell({"prompt": " ", "segments": [{"start_frame": 3, "prompt": ""}]}) == 2
    assert error_lines(capsys) == [
        "vinf generate: 2 things to mend:",
        "  story: prompt: must not be empty; allowed: [1, 200] characters",
        "  story: segments[0].prompt: must not be empty; allowed: [1, 200] characters",
    ]
