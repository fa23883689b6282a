"""Every range of the contract at its edges."""

from __future__ import annotations

import math

import pytest

from tests.server.fakes import memory_model, model_limits, room_for
from vinf.engine.v1 import engine_link_service_pb2 as link_pb2
from vinf.v1 import generation_pb2, video_generation_service_pb2
from vinf_server.front.errors import InvalidFieldsError, ModelNotFoundError, SpecTooLargeError
from vinf_server.front.rpc.validation import check_create, check_list, make_page_token

pytestmark = pytest.mark.fast

Spec = generation_pb2.GenerationSpec
Scope = generation_pb2.TemporalScope
Rational = generation_pb2.Rational
CUSTOM = generation_pb2.TEMPORAL_SCOPE_MODE_CUSTOM


def check(spec=None, *, limits=None, memory=None, request_id="", **fields):
    request = video_generation_service_pb2.CreateGenerationRequest(
        spec=spec or Spec(**({"prompt": "a red circle"} | fields)), request_id=request_id
    )
    return check_create(request, limits or model_limits(), memory or memory_model())[0]


def violated(call, *arguments, **fields) -> dict[str, str]:
    with pytest.raises(InvalidFieldsError) as caught:
        call(*arguments, **fields)
    return {violation.field: violation.description for violation in caught.value.violations}


INTEGER_RANGES = {
    "width": ([32, 64, 512, 0], [-16, 16, 31, 33, 40, 513, 528, 2**31 - 1]),
    "height": ([32, 64, 512, 0], [-16, 16, 31, 33, 40, 513, 528, 2**31 - 1]),
    "frame_count": ([1, 4096, 0], [-1, 4097, 10**9, 2**63 - 1]),
    "seed": ([0, 1, 2**63 - 1], [-1, -(2**63)]),
    "inference_step_count": ([1, 200, 0], [-1, 201]),
    "guidance_scale": ([1, 50, 0, -0.0], [0.999, 50.1, -1, math.nan, math.inf, -math.inf, 1e38, 1e-40]),
    "solver": ([0, 1, 2], [3, 99]),
}


@pytest.mark.parametrize(("field", "value"), [(f, v) for f, (good, _) in INTEGER_RANGES.items() for v in good])
def test_value_within_its_range_is_accepted(field, value):
    resolved = check(**{field: value})
    assert value == 0 or getattr(resolved, field) == value


@pytest.mark.parametrize(("field", "value"), [(f, v) for f, (_, bad) in INTEGER_RANGES.items() for v in bad])
def test_value_outside_its_range_is_named(field, value):
    violations = violated(check, **{field: value})
    assert list(violations) == [f"spec.{field}"]
    text = violations[f"spec.{field}"]
    assert "must be" in text
    assert "got " in text


def test_message_names_value_and_range():
    assert violated(check, frame_count=10**9) == {
        "spec.frame_count": "must be in [1, 4096] frames (default 16), got 1000000000"
    }


def test_defaults_are_filled_in():
    assert check(prompt="  a red circle ") == Spec(
        model="scripted",
        prompt="a red circle",
        width=64,
        height=64,
        frame_count=16,
        frame_rate=Rational(num=24, den=1),
        inference_step_count=4,
        guidance_scale=3.0,
        solver=generation_pb2.SOLVER_DDIM,
        temporal_scope=Scope(
            mode=CUSTOM,
            local_window_frames=16,
            global_frames=8,
            phase_timestep=600,
            phase_bias=1.5,
            initial_noise=generation_pb2.INITIAL_NOISE_INDEPENDENT,
            global_choice=generation_pb2.GLOBAL_CHOICE_EVEN,
        ),
    )


def test_resolved_spec_resolves_to_itself():
    resolved = check(width=128, seed=7, frame_rate=Rational(num=24000, den=1001))
    assert check(resolved) == resolved


@pytest.mark.parametrize(
    "prompt",
    ["", "   ", "a " * 101, "a red dragon", "!?", "a a a a a a a a a a a a a"],
    ids=["empty", "blank", "long", "unknown word", "no words", "13 words"],
)
def test_bad_prompt_is_named(prompt):
    assert list(violated(check, prompt=prompt)) == ["spec.prompt"]


def test_unknown_words_are_named_with_the_vocabulary():
    text = violated(check, prompt="A red dragon, a DWARF; a dragon")["spec.prompt"]
    assert "'dragon', 'dwarf'; it knows: a, red, blue" in text


def test_negative_prompt_may_be_empty_but_not_unknown():
    check(negative_prompt="")
    assert list(violated(check, negative_prompt="fog")) == ["spec.negative_prompt"]


@pytest.mark.parametrize("extra", [0, 1])
def test_prompt_length_counts_code_points(extra):
    limits = model_limits(max_prompt_chars=8, max_prompt_words=0, vocabulary=())
    spec = Spec(prompt="🎬" * (8 + extra))
    if extra:
        assert list(violated(check, spec, limits=limits)) == ["spec.prompt"]
    else:
        assert check(spec, limits=limits).prompt == spec.prompt


@pytest.mark.parametrize(("num", "den"), [(24, 1), (24000, 1001), (1, 1), (240, 1), (240_000, 1000), (1001, 1001)])
def test_frame_rate_within_its_range(num, den):
    assert check(frame_rate=Rational(num=num, den=den)).frame_rate == Rational(num=num, den=den)


@pytest.mark.parametrize(
    ("num", "den", "field"),
    [
        (24, 0, "frame_rate.den"),
        (0, 1, "frame_rate.num"),
        (-24, 1, "frame_rate.num"),
        (24, -1, "frame_rate.den"),
        (24, 1002, "frame_rate.den"),
        (240_001, 1001, "frame_rate.num"),
        (241, 1, "frame_rate"),
        (1, 2, "frame_rate"),
    ],
)
def test_frame_rate_outside_its_range(num, den, field):
    assert list(violated(check, frame_rate=Rational(num=num, den=den))) == [f"spec.{field}"]


SCOPE_RANGES = {
    "local_window_frames": ([0, 2, 8192], [-2, 3, 8193, 8194]),
    "global_frames": ([0, 256], [-1, 257]),
    "phase_timestep": ([0, 1000], [-1, 1001]),
    "phase_bias": ([0, 100], [-0.1, 100.1, math.nan, math.inf]),
}


@pytest.mark.parametrize(("field", "value"), [(f, v) for f, (good, _) in SCOPE_RANGES.items() for v in good])
def test_custom_scope_is_taken_literally(field, value):
    scope = check(temporal_scope=Scope(mode=CUSTOM, **{field: value})).temporal_scope
    assert getattr(scope, field) == value


@pytest.mark.parametrize(("field", "value"), [(f, v) for f, (_, bad) in SCOPE_RANGES.items() for v in bad])
def test_custom_scope_outside_its_range(field, value):
    violations = violated(check, temporal_scope=Scope(mode=CUSTOM, **{field: value}))
    assert list(violations) == [f"spec.temporal_scope.{field}"]


def test_default_scope_ignores_the_numbers():
    scope = check(temporal_scope=Scope(local_window_frames=-5, phase_bias=math.nan)).temporal_scope
    assert scope.local_window_frames == 16


@pytest.mark.parametrize(("asked", "resolved"), [(0, 1), (1, 1), (2, 2)])
def test_noise_and_choice_of_a_custom_scope(asked, resolved):
    wanted = Scope(mode=CUSTOM, global_frames=4, initial_noise=asked, global_choice=asked)
    scope = check(temporal_scope=wanted).temporal_scope
    assert (scope.initial_noise, scope.global_choice) == (resolved, resolved)


def test_a_models_own_noise_and_choice():
    limits = model_limits(default_temporal_scope=link_pb2.Scope(global_frames=4, freenoise=True, key_frames=True))
    ignored = Scope(initial_noise=9, global_choice=1)
    scope = check(temporal_scope=ignored, limits=limits).temporal_scope
    assert scope.initial_noise == generation_pb2.INITIAL_NOISE_FREENOISE
    assert scope.global_choice == generation_pb2.GLOBAL_CHOICE_KEY_FRAMES


def test_unknown_noise_and_choice():
    violations = violated(check, temporal_scope=Scope(mode=CUSTOM, initial_noise=3, global_choice=-1))
    assert violations == {
        "spec.temporal_scope.initial_noise": "must be 0, 1 = INDEPENDENT or 2 = FREENOISE, got 3",
        "spec.temporal_scope.global_choice": "must be 0, 1 = EVEN or 2 = KEY_FRAMES, got -1",
    }


def test_key_frames_need_global_frames():
    violations = violated(check, temporal_scope=Scope(mode=CUSTOM, global_choice=2))
    assert violations == {"spec.temporal_scope.global_choice": "must not be KEY_FRAMES where global_frames is 0"}


def test_an_overlap_is_shorter_than_the_trained_length():
    limits = model_limits(trained_frame_count=16)
    assert (
        check(temporal_scope=Scope(mode=CUSTOM, overlap_frames=15), limits=limits).temporal_scope.overlap_frames == 15
    )
    violations = violated(check, temporal_scope=Scope(mode=CUSTOM, overlap_frames=16), limits=limits)
    assert violations == {"spec.temporal_scope.overlap_frames": "must be in [0, 15] frames, got 16"}


def test_unknown_scope_mode():
    assert list(violated(check, temporal_scope=Scope(mode=9))) == ["spec.temporal_scope.mode"]


def test_all_violations_come_at_once():
    violations = violated(
        check,
        request_id="7",
        prompt="",
        negative_prompt="fog",
        width=1,
        height=1,
        frame_count=-1,
        frame_rate=Rational(num=-1, den=-1),
        seed=-1,
        inference_step_count=-1,
        guidance_scale=math.nan,
        solver=99,
        temporal_scope=Scope(mode=CUSTOM, local_window_frames=-1, global_frames=-1, phase_timestep=-1, phase_bias=-1),
    )
    assert len(violations) == 16


@pytest.mark.parametrize("most", [1, 20, 4095])
def test_what_fits_into_memory_is_accepted_to_the_last_frame(most):
    memory = room_for(most)
    assert check(memory=memory, frame_count=most).frame_count == most
    with pytest.raises(SpecTooLargeError) as caught:
        check(memory=memory, frame_count=most + 1)
    assert caught.value.metadata["maxFrameCount"] == str(most)


def test_what_does_not_fit_is_told_with_everything_else():
    memory = room_for(20)
    violations = violated(check, memory=memory, frame_count=21, seed=-1, request_id="7")
    assert list(violations) == ["spec.seed", "request_id", "spec.frame_count"]
    with pytest.raises(InvalidFieldsError) as caught:
        check(memory=memory, frame_count=21, seed=-1)
    assert not isinstance(caught.value, SpecTooLargeError), "plain mistakes name the reason"


@pytest.mark.parametrize(("field", "value"), [("width", 31), ("height", 10**6), ("frame_count", 4097)])
def test_memory_says_nothing_about_sizes_that_no_model_takes(field, value):
    assert list(violated(check, memory=room_for(2), **{"frame_count": 9, field: value})) == [f"spec.{field}"]


def test_unknown_model_is_not_found():
    with pytest.raises(ModelNotFoundError, match="'scripted'"):
        check(model="other")


@pytest.mark.parametrize(
    "request_id", ["", "123e4567-e89b-12d3-a456-426614174000", "123E4567-E89B-12D3-A456-426614174000"]
)
def test_request_id_may_be_a_uuid(request_id):
    check(request_id=request_id)


@pytest.mark.parametrize(
    "request_id", ["x", "123e4567e89b12d3a456426614174000", "123e4567-e89b-12d3-a456-4266141740000", "ü" * 36]
)
def test_request_id_must_be_a_uuid(request_id):
    assert list(violated(check, request_id=request_id)) == ["request_id"]


List = video_generation_service_pb2.ListGenerationsRequest


@pytest.mark.parametrize(("asked", "given"), [(0, 50), (1, 1), (500, 500), (501, 500), (2**31 - 1, 500)])
def test_page_size(asked, given):
    assert check_list(List(page_size=asked)) == (given, "")


def test_page_token_comes_back():
    last_id = "0123456789ab-0123456789abcdef0123"
    assert check_list(List(page_token=make_page_token(last_id))) == (50, last_id)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (List(page_size=-1), "page_size"),
        (List(page_token="garbage"), "page_token"),
        (List(page_token="ü"), "page_token"),
        (List(page_token=make_page_token("../x")), "page_token"),
        (List(states=[1, 99]), "states[1]"),
    ],
)
def test_bad_list_request(request_, field):
    assert list(violated(check_list, request_)) == [field]
