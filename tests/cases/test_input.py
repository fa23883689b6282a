"""Cases 1 to 25: input that is wrong, or looks as if it were."""

from __future__ import annotations

import http.client
import math
import random
import socket
import urllib.request

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from tests.cases.conftest import PROMPT, TIMEOUT_S, Api, pull, refusal
from vinf.v1 import frame_pb2, generation_pb2
from vinf.v1 import video_generation_service_pb2 as v1

pytestmark = pytest.mark.process

INVALID = grpc.StatusCode.INVALID_ARGUMENT
CREATE = "/vinf.v1.VideoGenerationService/CreateGeneration"
NATIVE = {"width": 64, "height": 64}


def refused_field(api: Api, field: str, **arguments: object) -> str:
    """The description of the one violation there is."""
    seen = api.refused(**arguments)
    assert (seen.code, seen.reason) == (INVALID, "INVALID_FIELD")
    assert list(seen.violations) == [field]
    return seen.violations[field]


def raw(api: Api, data: bytes, method: str = CREATE) -> grpc.RpcError:
    """Send bytes as a request; returns how it was refused."""
    with pytest.raises(grpc.RpcError) as caught:
        api.channel.unary_unary(method)(data, timeout=TIMEOUT_S)
    return caught.value


@pytest.mark.parametrize("prompt", ["", "   \t\n"])
def test_case_01_empty_prompt(api: Api, prompt: str) -> None:
    assert "got 0" in refused_field(api, "spec.prompt", spec={"prompt": prompt})


def test_case_02_prompt_over_the_limit_in_code_points(api: Api) -> None:
    longest = api.info.GetServerInfo(v1_info()).server_info.models[0].max_prompt_chars
    # Emoji are four bytes and one code point each; the vocabulary refuses them, the length is named only beyond it.
    at_the_edge = refused_field(api, "spec.prompt", spec={"prompt": "🎈" * longest})
    assert f"1 to {longest} characters" not in at_the_edge
    over = refused_field(api, "spec.prompt", spec={"prompt": "🎈" * (longest + 1)})
    assert f"1 to {longest} characters" in over
    assert f"got {longest + 1}" in over


def v1_info() -> Message:
    from vinf.v1.server_info_service_pb2 import GetServerInfoRequest

    return GetServerInfoRequest()


def test_case_03_bytes_that_are_no_message(api: Api) -> None:
    valid = v1.CreateGenerationRequest(spec=generation_pb2.GenerationSpec(prompt="abcd")).SerializeToString()
    for data in (valid[:-2], valid.replace(b"abcd", b"\xff\xfe\x80\xc0")):
        error = raw(api, data)
        assert (error.code(), refusal(error).reason) == (INVALID, "MALFORMED_REQUEST")


@pytest.mark.parametrize("character", ["\0", "\x1b[2J", "\u202e", "\r\nFAKE"])
def test_case_04_control_and_bidi_characters_never_reach_a_log_or_a_terminal_as_they_are(
    api: Api, character: str
) -> None:
    seen = api.refused(spec={"prompt": f"{PROMPT} {character}zebra"})
    assert list(seen.violations) == ["spec.prompt"]
    assert character not in seen.violations["spec.prompt"]
    assert character not in seen.message
    assert character not in api.server.log.read_text()


@pytest.mark.parametrize("width", [-16, 15, 2**31 - 1, 72])
def test_case_05_width_outside_its_range(api: Api, width: int) -> None:
    assert f"got {width}" in refused_field(api, "spec.width", spec={"width": width})


def test_case_06_a_size_whose_product_overflows(api: Api) -> None:
    seen = api.refused(spec={"width": 65536, "height": 65536})
    assert set(seen.violations) == {"spec.width", "spec.height"}


@pytest.mark.parametrize("count", [-1, 65537, 2**63 - 1])
def test_case_07_frame_count_outside_its_range(api: Api, count: int) -> None:
    assert "65536] frames" in refused_field(api, "spec.frame_count", spec={"frame_count": count})


@pytest.mark.parametrize(("num", "den"), [(24, 0), (0, 1), (-24, 1), (10**9, 1)])
def test_case_08_frame_rates_that_are_none(api: Api, num: int, den: int) -> None:
    seen = api.refused(spec={"frame_rate": generation_pb2.Rational(num=num, den=den)})
    assert seen.reason == "INVALID_FIELD"
    assert all(field.startswith("spec.frame_rate") for field in seen.violations)


@pytest.mark.parametrize("scale", [math.nan, math.inf, -1.0, 1e38, 1e-45])
def test_case_09_guidance_that_is_no_usual_number(api: Api, scale: float) -> None:
    assert "[1, 50]" in refused_field(api, "spec.guidance_scale", spec={"guidance_scale": scale})


def test_case_09_negative_zero_is_zero(api: Api) -> None:
    made = api.create(spec={"guidance_scale": -0.0}, validate_only=True)
    assert made.resolved_spec.guidance_scale >= 1


@pytest.mark.parametrize("steps", [-1, 201])
def test_case_10_steps_outside_their_range(api: Api, steps: int) -> None:
    assert f"got {steps}" in refused_field(api, "spec.inference_step_count", spec={"inference_step_count": steps})


def test_case_10_no_steps_means_the_default(api: Api) -> None:
    assert api.create(validate_only=True).resolved_spec.inference_step_count > 0


def test_case_11_seeds(api: Api) -> None:
    assert "got -1" in refused_field(api, "spec.seed", spec={"seed": -1})
    assert api.create(spec={"seed": 2**63 - 1}, validate_only=True).resolved_spec.seed == 2**63 - 1
    assert api.create(spec={"seed": 0}, validate_only=True).resolved_spec.seed > 0


def test_case_12_unknown_enum_numbers(api: Api) -> None:
    assert "got 99" in refused_field(api, "spec.solver", spec={"solver": 99})
    assert "got 99" in refused_field(api, "overflow_policy", overflow_policy=99)
    assert "got 99" in refused_field(
        api, "spec.temporal_scope.mode", spec={"temporal_scope": generation_pb2.TemporalScope(mode=99)}
    )
    for field in ("initial_noise", "global_choice"):
        scope = generation_pb2.TemporalScope(mode=generation_pb2.TEMPORAL_SCOPE_MODE_CUSTOM, **{field: 99})
        assert "got 99" in refused_field(api, f"spec.temporal_scope.{field}", spec={"temporal_scope": scope})


def test_case_13_a_pixel_format_that_contradicts_the_encoding(api: Api, finished: tuple[str, list[bytes]]) -> None:
    nv12_as_png = frame_pb2.OutputFormat(
        encoding=frame_pb2.FRAME_ENCODING_PNG, pixel_format=frame_pb2.PIXEL_FORMAT_NV12
    )
    fields = {"generation_id": finished[0], "output_format": nv12_as_png}
    with pytest.raises(grpc.RpcError) as streamed:
        list(api.video.StreamFrames(v1.StreamFramesRequest(**fields), timeout=TIMEOUT_S))
    with pytest.raises(grpc.RpcError) as pulled:
        api.video.PullFrames(v1.PullFramesRequest(**fields), timeout=TIMEOUT_S)
    for caught in (streamed, pulled):
        seen = refusal(caught.value)
        assert (seen.code, seen.reason) == (INVALID, "INVALID_FIELD")
        assert list(seen.violations) == ["output_format.pixel_format"]


def test_case_14_sizes_are_even_and_nv12_takes_them(api: Api, finished: tuple[str, list[bytes]]) -> None:
    """No model here makes odd sizes; the refusal of NV12 for them is tested where the request is checked."""
    assert "got 65" in refused_field(api, "spec.width", spec={"width": 65})
    nv12 = frame_pb2.OutputFormat(pixel_format=frame_pb2.PIXEL_FORMAT_NV12)
    assert len(pull(api, finished[0], 0, output_format=nv12).frames[0].data) == 64 * 64 * 3 // 2


def test_case_15_images_for_a_model_that_takes_none(api: Api) -> None:
    """Refused before anything of them is read; what is wrong with each is told where a model takes some."""
    model = api.info.GetServerInfo(v1_info()).server_info.models[0]
    assert (model.image_frames, model.max_image_count) == (0, 0)
    conditions = [generation_pb2.ImageCondition(image=b"no picture")] * 2
    words = refused_field(api, "spec.image_conditions", spec={"image_conditions": conditions})
    assert words == f"model '{model.name}' takes no images, got 2"
    with pytest.raises(grpc.RpcError) as caught:
        api.create(spec={"image_conditions": [generation_pb2.ImageCondition(image=bytes(17 << 20))]})
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_case_17_prompt_segments_out_of_order(api: Api) -> None:
    def segment(start: int, **fields: object) -> generation_pb2.PromptSegment:
        return generation_pb2.PromptSegment(start_frame_index=start, prompt=PROMPT, **fields)

    for starts, at in (((4, 2), 1), ((2, 2), 1), ((8,), 0), ((-1,), 0)):
        field = f"spec.prompt_segments[{at}].start_frame_index"
        refused_field(api, field, spec={"prompt_segments": [segment(start) for start in starts]})
    refused_field(
        api,
        "spec.prompt_segments[0].transition_frame_count",
        spec={"prompt_segments": [segment(4, transition_frame_count=2, cut=True)]},
    )


@pytest.mark.parametrize("request_id", ["not-a-uuid", "0" * 37, "0f0e0d0c-0b0a-0908-0706-05040302010é"])
def test_case_18_request_ids_that_are_none(api: Api, request_id: str) -> None:
    assert "UUID" in refused_field(api, "request_id", request_id=request_id)


def test_case_19_pages(api: Api) -> None:
    for field, fields in (
        ("page_size", {"page_size": -1}),
        ("page_token", {"page_token": "garbage"}),
        ("page_token", {"page_token": "MjpmMDAx"}),
        ("states[0]", {"states": [99]}),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            api.video.ListGenerations(v1.ListGenerationsRequest(**fields), timeout=TIMEOUT_S)
        assert list(refusal(caught.value).violations) == [field]


@pytest.mark.parametrize(
    "lease", [Duration(seconds=-1), Duration(seconds=3_600_000), Duration(seconds=10, nanos=-1)], ids=str
)
def test_case_20_leases(api: Api, lease: Duration) -> None:
    assert "[5, 3600] seconds" in refused_field(api, "lease_duration", lease_duration=lease)


def test_case_20_no_lease_means_the_default(api: Api) -> None:
    assert not api.create(lease_duration=Duration(), validate_only=True).detached


def test_case_21_everything_wrong_at_once(api: Api) -> None:
    scope = generation_pb2.TemporalScope(
        mode=generation_pb2.TEMPORAL_SCOPE_MODE_CUSTOM, local_window_frames=-1, global_frames=-1, phase_bias=math.inf
    )
    wrong = {
        "prompt": "ж" * 100_000,
        "negative_prompt": "🎈" * 100_000,
        "width": -1,
        "height": 7,
        "frame_count": -1,
        "seed": -1,
        "inference_step_count": -1,
        "guidance_scale": math.nan,
        "solver": 99,
        "temporal_scope": scope,
        "frame_rate": generation_pb2.Rational(num=-1, den=-1),
    }
    seen = api.refused(spec=wrong, request_id="?" * 5000, retention_frame_count=1, overflow_policy=9)
    assert (seen.code, seen.reason) == (INVALID, "INVALID_FIELD")
    assert seen.details_bytes <= 4096
    named = {"spec.prompt", "spec.width", "spec.height", "spec.frame_count", "spec.seed"}
    assert named <= set(seen.violations)
    assert len(seen.violations) >= 12 or seen.metadata.get("truncated") == "true"


def test_case_22_fields_of_a_newer_client_are_ignored(api: Api) -> None:
    request = v1.CreateGenerationRequest(
        spec=generation_pb2.GenerationSpec(prompt=PROMPT, frame_count=8), validate_only=True
    ).SerializeToString()
    unknown = b"\xc2\x3e\x05hello"  # field 1000, length-delimited
    reply = api.channel.unary_unary(CREATE)(request + unknown, timeout=TIMEOUT_S)
    assert v1.CreateGenerationResponse.FromString(reply).generation.resolved_spec.frame_count == 8


def test_case_23_a_request_over_the_limit(api: Api) -> None:
    error = raw(api, b"\x0a" + b"x" * (17 << 20))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert api.create(validate_only=True).resolved_spec.frame_count == 8


def test_case_24_random_bytes(api: Api) -> None:
    numbers = random.Random(24)
    log_before = len(api.server.log.read_text())
    call = api.channel.unary_unary(CREATE)
    codes = set()
    for _ in range(10):
        calls = [call.future(numbers.randbytes(numbers.randint(1, 200)), timeout=TIMEOUT_S) for _ in range(200)]
        codes |= {done.code() for done in calls}
    assert codes == {INVALID}
    assert len(api.server.log.read_text()) - log_before < 10_000
    assert api.create(validate_only=True).resolved_spec.frame_count == 8


def test_case_25_what_is_no_call(api: Api) -> None:
    log_before = len(api.server.log.read_text())
    assert raw(api, b"", "/vinf.v1.VideoGenerationService/Nope").code() is grpc.StatusCode.UNIMPLEMENTED
    host, _, port = api.server.address.rpartition(":")
    tls_hello = bytes.fromhex("16030100c8010000c40303") + bytes(190)
    for _ in range(20):
        for data in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", tls_hello, b""):
            with socket.create_connection((host, int(port)), timeout=5) as connection:
                connection.sendall(data)
    with pytest.raises((OSError, http.client.HTTPException)):
        urllib.request.urlopen(f"http://{api.server.address}/", timeout=5)
    assert api.create(validate_only=True).resolved_spec.frame_count == 8
    assert len(api.server.log.read_text()) - log_before < 10_000
