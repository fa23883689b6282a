"""The ranges in the comments of the contract are those the validator enforces."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.server.fakes import memory_model, model_limits, normalised_spec
from vinf.v1 import frame_pb2, generation_pb2, video_generation_service_pb2
from vinf_server.front.errors import InvalidFieldsError
from vinf_server.front.rpc.frame_requests import check_pull, check_stream
from vinf_server.front.rpc.validation import check_create

pytestmark = pytest.mark.fast

PROTOS = Path(__file__).parents[4] / "protos" / "vinf" / "v1"
LIMITS = model_limits()
UNKNOWN_MEMORY = memory_model()
SPEC = normalised_spec(frame_count=10)


def documented_range(file: str, field: str) -> tuple[float, float]:
    """The range in the comment above a field."""
    text = (PROTOS / file).read_text()
    match = re.search(rf"((?:^ *//.*\n)+) *\w+ {field} = \d+;", text, re.MULTILINE)
    low, high = re.search(r"Range: \[([^,]+), ([^\]]+)\]", match[1].replace("\n  //", "")).groups()

    def number(expression: str) -> float:
        named = re.sub(r"ModelInfo\.(\w+)", lambda name: str(getattr(LIMITS, name[1])), expression)
        return eval(named.replace("^", "**"))  # an expression of our own contract

    return number(low), number(high)


def accepts(check, *arguments) -> bool:
    try:
        check(*arguments)
    except InvalidFieldsError:
        return False
    return True


def spec_accepts(**fields) -> bool:
    spec = generation_pb2.GenerationSpec(**({"prompt": "a red circle"} | fields))
    return accepts(
        check_create, video_generation_service_pb2.CreateGenerationRequest(spec=spec), LIMITS, UNKNOWN_MEMORY
    )


def scope_accepts(**fields) -> bool:
    return spec_accepts(temporal_scope=generation_pb2.TemporalScope(mode=2, **fields))


@pytest.mark.parametrize(
    ("field", "step"),
    [
        ("width", 16),
        ("height", 16),
        ("frame_count", 1),
        ("seed", 1),
        ("inference_step_count", 1),
        ("guidance_scale", 0.25),
    ],
)
def test_specification(field, step):
    low, high = documented_range("generation.proto", field)
    assert spec_accepts(**{field: low})
    assert spec_accepts(**{field: high})
    # One below 1 is 0, the default.
    assert not spec_accepts(**{field: low - step or -1})
    if high + step < 2**63:
        assert not spec_accepts(**{field: high + step})


@pytest.mark.parametrize(
    ("field", "step"), [("local_window_frames", 2), ("global_frames", 1), ("phase_timestep", 1), ("phase_bias", 0.5)]
)
def test_scope(field, step):
    low, high = documented_range("generation.proto", field)
    assert scope_accepts(**{field: low})
    assert scope_accepts(**{field: high})
    assert not scope_accepts(**{field: low - step})
    assert not scope_accepts(**{field: high + step})


Service = video_generation_service_pb2


@pytest.mark.parametrize(
    ("check", "kind"),
    [(check_stream, Service.StreamFramesRequest), (check_pull, Service.PullFramesRequest)],
    ids=["stream", "pull"],
)
def test_slices(check, kind):
    low, high = documented_range("video_generation_service.proto", "max_data_bytes")
    sizes = (low - 1, low, high, high + 1)
    assert [accepts(check, kind(max_data_bytes=size), SPEC) for size in sizes] == [False, True, True, False]


def test_pulled_frames():
    low, high = documented_range("video_generation_service.proto", "max_frames")
    assert [
        accepts(check_pull, Service.PullFramesRequest(max_frames=count), SPEC) for count in (-1, low, high, high + 1)
    ] == [False, True, True, False]


def test_preview_interval():
    low, high = documented_range("video_generation_service.proto", "preview_interval_steps")

    def interval_accepts(value):
        spec = generation_pb2.GenerationSpec(prompt="a red circle")
        request = Service.CreateGenerationRequest(spec=spec, preview_interval_steps=value)
        return accepts(check_create, request, LIMITS, UNKNOWN_MEMORY)

    assert [interval_accepts(value) for value in (low - 1, low, high, high + 1)] == [False, True, True, False]


@pytest.mark.parametrize("field", ["row_alignment_bytes", "jpeg_quality"])
def test_output_format(field):
    low, high = documented_range("frame.proto", field)

    def format_accepts(value):
        output = frame_pb2.OutputFormat(encoding=frame_pb2.FRAME_ENCODING_JPEG, **{field: value})
        return accepts(check_stream, Service.StreamFramesRequest(output_format=output), SPEC)

    assert [format_accepts(value) for value in (-1, low, high, high + 1)] == [False, True, True, False]


def test_every_request_field_says_its_range():
    """Numbers without a range would be promises nobody can check."""
    for file, message in [
        ("generation.proto", name) for name in ("GenerationSpec", "TemporalScope", "PromptSegment", "ImageCondition")
    ]:
        body = re.search(rf"^message {message} \{{\n(.*?)^\}}", (PROTOS / file).read_text(), re.DOTALL | re.MULTILINE)[
            1
        ]
        for comment, field in re.findall(r"((?:^ *//.*\n)+) *(?:int32|int64|float) (\w+) = ", body, re.MULTILINE):
            assert "Range: [" in comment, field
