"""Requests say what the caller said, waits are honoured, and every violation is told at once."""

import threading
import uuid
from concurrent import futures
from fractions import Fraction

import grpc
import numpy as np
import pytest

from tests.client.fakes import ID, Failure
from vinf.v1 import generation_pb2 as pb
from vinf_client import (
    Client,
    ClientClosedError,
    GenerationNotFoundError,
    GenerationState,
    GlobalChoice,
    InitialNoise,
    InvalidRequestError,
    QueueFullError,
    ServerDrainingError,
    ServerNotReadyError,
    Solver,
    TransportError,
)

pytestmark = pytest.mark.fast


def test_what_is_not_given_is_not_sent(client, server):
    client.submit("a red ball")
    (request,) = server.creates
    assert request.spec == pb.GenerationSpec(prompt="a red ball")
    assert str(uuid.UUID(request.request_id)) == request.request_id


def test_everything_given_is_sent(client, server):
    client.submit(
        "a red ball",
        negative_prompt="blue",
        frames=np.int64(96),
        seed=7,
        width=64,
        height=48,
        steps=10,
        guidance=3,
        model="sprites",
        fps="24000/1001",
        solver="dpm++",
    )
    assert server.creates[0].spec == pb.GenerationSpec(
        prompt="a red ball",
        negative_prompt="blue",
        frame_count=96,
        seed=7,
        width=64,
        height=48,
        inference_step_count=10,
        guidance_scale=3.0,
        model="sprites",
        frame_rate=pb.Rational(num=24000, den=1001),
        solver=pb.SOLVER_DPM_SOLVER_PP_2M,
    )


@pytest.mark.parametrize(
    ("fps", "num", "den"), [(24, 24, 1), (23.976, 2997, 125), (12.5, 25, 2), (Fraction(30000, 1001), 30000, 1001)]
)
def test_rates(client, server, fps, num, den):
    client.submit("a red ball", fps=fps)
    assert server.creates[0].spec.frame_rate == pb.Rational(num=num, den=den)


def test_a_custom_scope_keeps_the_models_other_numbers(client, server):
    client.submit("a red ball", global_frames=0)
    assert server.creates[0].spec.temporal_scope == pb.TemporalScope(
        mode=pb.TEMPORAL_SCOPE_MODE_CUSTOM,
        local_window_frames=16,
        global_frames=0,
        phase_timestep=500,
        phase_bias=1.5,
        initial_noise=pb.INITIAL_NOISE_INDEPENDENT,
        global_choice=pb.GLOBAL_CHOICE_EVEN,
    )


def test_an_overlap_is_a_custom_scope(client, server):
    client.submit("a red ball", overlap=6)
    scope = server.creates[0].spec.temporal_scope
    assert (scope.mode, scope.overlap_frames, scope.local_window_frames) == (pb.TEMPORAL_SCOPE_MODE_CUSTOM, 6, 16)
    server.info.models[0].default_temporal_scope.overlap_frames = 3
    assert client.info().models[0].default_temporal_scope.overlap_frames == 3


def test_noise_and_choice_make_the_scope_a_custom_one(client, server):
    client.submit("a red ball", initial_noise="freenoise", global_choice=GlobalChoice.KEY_FRAMES)
    scope = server.creates[0].spec.temporal_scope
    assert (scope.mode, scope.local_window_frames, scope.global_frames) == (pb.TEMPORAL_SCOPE_MODE_CUSTOM, 16, 8)
    assert (scope.initial_noise, scope.global_choice) == (pb.INITIAL_NOISE_FREENOISE, pb.GLOBAL_CHOICE_KEY_FRAMES)


@pytest.mark.parametrize(
    ("number", "noise", "choice"),
    [
        (0, InitialNoise.INDEPENDENT, GlobalChoice.EVEN),  # an older server
        (1, InitialNoise.INDEPENDENT, GlobalChoice.EVEN),
        (2, InitialNoise.FREENOISE, GlobalChoice.KEY_FRAMES),
        (9, InitialNoise.UNKNOWN, GlobalChoice.UNKNOWN),  # a newer one
    ],
)
def test_a_models_noise_and_choice(client, server, number, noise, choice):
    server.info.models[0].default_temporal_scope.initial_noise = number
    server.info.models[0].default_temporal_scope.global_choice = number
    scope = client.info().models[0].default_temporal_scope
    assert (scope.initial_noise, scope.global_choice) == (noise, choice)
    client.submit("a red ball", window=4)
    sent = server.creates[0].spec.temporal_scope
    assert (sent.initial_noise, sent.global_choice) == ((number or 1,) * 2 if number < 9 else (0, 0))


def test_a_custom_scope_waits_for_the_ranks(client, server):
    models = list(server.info.models)
    del server.info.models[:]
    client.submit("a red ball", window=4, on_wait=lambda reason: server.info.models.extend(models))
    assert server.creates[0].spec.temporal_scope.local_window_frames == 4


@pytest.mark.parametrize("value", [0, -1])
@pytest.mark.parametrize("name", ["frames", "width", "height", "steps"])
def test_explicit_zeros_and_negatives_are_refused(client, server, name, value):
    with pytest.raises(InvalidRequestError) as caught:
        client.submit("a red ball", **{name: value})
    (violation,) = caught.value.violations
    assert violation.argument == name
    assert violation.description.startswith(f"{value} is not allowed; allowed: [")
    assert all(request.validate_only for request in server.creates)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("frames", 2**63),
        ("frames", 1.5),
        ("frames", True),
        ("width", 2**31),
        ("seed", -1),
        ("seed", 2**63),
        ("guidance", float("nan")),
        ("guidance", 0),
        ("guidance", -1.0),
        ("fps", 0),
        ("fps", "fast"),
        ("fps", float("inf")),
        ("fps", 241),
        ("solver", "euler"),
        ("solver", ["ddim"]),
        ("initial_noise", {}),
        ("initial_noise", "unknown"),
        ("initial_noise", ""),
        ("global_choice", "key_frames"),
        ("window", -1),
        ("overlap", -1),
        ("phase_bias", float("inf")),
        ("model", "\udcff"),
        ("negative_prompt", "x" * 1_000_001),
    ],
)
def test_what_the_wire_cannot_carry_is_refused(client, argument, value):
    with pytest.raises(InvalidRequestError) as caught:
        client.submit("a red ball", **{argument: value})
    assert [violation.argument for violation in caught.value.violations] == [argument]
    assert str(caught.value).startswith(f"{argument}: ")


@pytest.mark.parametrize("prompt", ["", "  \n", "\udcff", None, 3])
def test_prompts_that_are_none(client, prompt):
    with pytest.raises(InvalidRequestError, match=r"^prompt: "):
        client.submit(prompt)


def test_all_violations_come_at_once(client, server):
    server.validate_failure = Failure(
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_FIELD",
        violations=(("spec.height", "must be a multiple of 8"), ("spec.prompt", "is empty")),
    )
    with pytest.raises(InvalidRequestError) as caught:
        client.submit("", frames=0, height=33)
    told = {violation.argument: violation.description for violation in caught.value.violations}
    assert set(told) == {"prompt", "frames", "height"}
    assert "[1, 4096]" in told["frames"]
    assert server.creates[0].validate_only
    assert server.creates[0].spec.height == 33


def test_violations_are_told_without_a_server():
    with Client("127.0.0.1:1") as client, pytest.raises(InvalidRequestError, match=r"^frames: 0 is not"):
        client.submit("a red ball", frames=0)


@pytest.mark.parametrize(
    ("code", "reason"),
    [("UNAVAILABLE", "WORKERS_NOT_READY"), ("RESOURCE_EXHAUSTED", "QUEUE_FULL")],
)
def test_create_comes_back_later_with_the_same_id(client, server, code, reason):
    later = Failure(grpc.StatusCode[code], reason, retry_after=0.01)
    server.create_failures.extend([later, later])
    reasons = []
    client.submit("a red ball", on_wait=lambda error: reasons.append(error.reason))
    assert reasons == [reason, reason]
    assert len({request.request_id for request in server.creates}) == 1


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (Failure(grpc.StatusCode.UNAVAILABLE, "WORKERS_NOT_READY"), ServerNotReadyError),
        (Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", retry_after=3), QueueFullError),
    ],
    ids=["not ready", "queue full"],
)
def test_patience_ends(client, server, failure, error):
    server.create_failures.append(failure)
    with pytest.raises(error) as caught:
        client.submit("a red ball", wait_ready=0)
    assert caught.value.retry_after == failure.retry_after


def test_a_draining_server_is_not_waited_for(client, server):
    server.create_failures.append(Failure(grpc.StatusCode.UNAVAILABLE, "SERVER_DRAINING"))
    with pytest.raises(ServerDrainingError):
        client.submit("a red ball")


def test_a_broken_connection_is_tried_again(client, server):
    client.info()
    server.create_failures.append(Failure(grpc.StatusCode.UNAVAILABLE, message="connection reset"))
    client.submit("a red ball")
    assert len(server.creates) == 2


def test_an_unknown_keyword_is_a_type_error(client):
    with pytest.raises(TypeError, match="frame_count"):
        client.submit("a red ball", frame_count=3)


def test_info(client):
    info = client.info()
    assert info.ready
    assert info.model().name == info.model("sprites").name == "sprites"
    assert info.model("other") is None
    assert info.models[0].default_solver is Solver.DDIM
    assert info.models[0].default_frame_rate == 12
    assert info.ranks[0].device == "cpu"


def test_list_turns_pages(client, server):
    server.pages = [["a", "b"], ["c", "d"]]
    assert [generation.generation_id for generation in client.list(limit=3, states=["running"])] == ["a", "b", "c"]
    assert [(request.page_size, request.page_token) for request in server.lists] == [(3, ""), (1, "1")]
    assert list(server.lists[0].states) == [pb.GENERATION_STATE_RUNNING]


def test_attach_and_cancel(client, server):
    handle = client.attach("gen-1")
    assert handle.progress.completed_step_count == 20
    assert handle.cancel().state is GenerationState.CANCELLED
    assert server.cancelled.is_set()
    with pytest.raises(GenerationNotFoundError):
        client.attach("other")


def test_states_newer_than_this_client(client, server):
    server.state = 99
    assert client.attach("gen-1").generation.state is GenerationState.UNKNOWN


def test_nobody_there():
    with Client("127.0.0.1:1") as client, pytest.raises(TransportError, match=r"127.0.0.1:1: connection refused"):
        client.info()


@pytest.mark.parametrize("address", ["", "host", "host:", "host:0", "host:65536", ":1", "http://host:1", "host:x"])
def test_addresses_that_are_none(address):
    with pytest.raises(InvalidRequestError, match=r"^server: must be HOST:PORT"):
        Client(address)


def test_a_closed_client_says_so(server):
    client = Client(server.address)
    client.info()
    client.close()
    with pytest.raises(ClientClosedError, match="the client was closed"):
        client.info()


def test_closing_wakes_a_thread_that_waits_to_try_again(server):
    server.create_failures.append(Failure(grpc.StatusCode.UNAVAILABLE, "WORKERS_NOT_READY", retry_after=3600))
    client = Client(server.address)
    with futures.ThreadPoolExecutor(1) as pool:
        waiting = threading.Event()
        call = pool.submit(client.submit, "a red ball", wait_ready=7200, on_wait=lambda _: waiting.set())
        assert waiting.wait(20)
        client.close()
        with pytest.raises(ClientClosedError):
            call.result(20)


def test_closing_ends_a_stream_of_frames(server):
    server.hold_after = 3
    client = Client(server.address)
    with futures.ThreadPoolExecutor(1) as pool:
        call = pool.submit(list, client.attach(ID).frames())
        assert server.holding.wait(20)
        client.close()
        with pytest.raises(ClientClosedError):
            call.result(20)
