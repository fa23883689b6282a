"""Every status becomes the error the table promises, and nobody sees gRPC's own."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import pytest

import vinf_client
from tests.client.fakes import Failure
from vinf_client import _errors
from vinf_client._translate import BY_REASON, translate
from vinf_client.cli import main

pytestmark = pytest.mark.fast

CASES = [
    ("INVALID_ARGUMENT", "INVALID_FIELD", _errors.InvalidRequestError),
    ("INVALID_ARGUMENT", "MALFORMED_REQUEST", _errors.InvalidRequestError),
    ("INVALID_ARGUMENT", "SPEC_TOO_LARGE", _errors.InvalidRequestError),
    ("INVALID_ARGUMENT", "", _errors.InvalidRequestError),
    ("ALREADY_EXISTS", "REQUEST_ID_REUSED", _errors.RequestIdReusedError),
    ("NOT_FOUND", "MODEL_NOT_FOUND", _errors.ModelNotFoundError),
    ("NOT_FOUND", "GENERATION_NOT_FOUND", _errors.GenerationNotFoundError),
    ("NOT_FOUND", "", _errors.NotFoundError),
    ("UNAUTHENTICATED", "TOKEN_MISSING", _errors.AuthenticationError),
    ("UNAUTHENTICATED", "TOKEN_INVALID", _errors.AuthenticationError),
    ("UNAUTHENTICATED", "TOKEN_EXPIRED", _errors.AuthenticationError),
    ("UNAUTHENTICATED", "CERTIFICATE_INVALID", _errors.AuthenticationError),
    ("UNAUTHENTICATED", "", _errors.AuthenticationError),
    ("RESOURCE_EXHAUSTED", "QUEUE_FULL", _errors.QueueFullError),
    ("RESOURCE_EXHAUSTED", "CLIENT_LIMIT", _errors.ClientLimitError),
    ("RESOURCE_EXHAUSTED", "DISK_FULL", _errors.DiskFullError),
    ("RESOURCE_EXHAUSTED", "", _errors.ServerError),
    ("FAILED_PRECONDITION", "WRONG_STATE", _errors.WrongStateError),
    ("DATA_LOSS", "FRAME_DAMAGED", _errors.FrameDamagedError),
    ("OUT_OF_RANGE", "FRAME_EVICTED", _errors.FrameEvictedError),
    ("UNAVAILABLE", "WORKERS_NOT_READY", _errors.ServerNotReadyError),
    ("UNAVAILABLE", "SERVER_DRAINING", _errors.ServerDrainingError),
    ("UNAVAILABLE", "NEWER_THAN_US", _errors.TransportError),
    ("UNAVAILABLE", "", _errors.TransportError),
    ("DEADLINE_EXCEEDED", "", _errors.RpcTimeoutError),
    ("UNIMPLEMENTED", "", _errors.ProtocolError),
    ("INTERNAL", "INTERNAL", _errors.ServerError),
    ("UNKNOWN", "", _errors.ServerError),
]


def test_every_reason_has_a_case():
    assert {reason for _, reason, _ in CASES} >= set(BY_REASON)


@pytest.mark.parametrize(("code", "reason", "kind"), CASES)
def test_the_table(client, server, code, reason, kind):
    server.get_failure = Failure(grpc.StatusCode[code], reason, "what went wrong", metadata={"a": "b"})
    error = translate(_rpc_error(server), server.address)
    assert type(error) is kind
    assert (error.code, error.reason) == (code, reason)
    assert error.metadata == ({"a": "b"} if reason else {})
    assert "\n" not in str(error)


def test_the_original_is_chained(client, server):
    server.get_failure = Failure(grpc.StatusCode.INTERNAL, "INTERNAL")
    with pytest.raises(_errors.ServerError) as caught:
        client.attach("gen-1")
    assert isinstance(caught.value.__cause__, grpc.RpcError)


def test_violations_and_retry_info_are_read(server):
    server.get_failure = Failure(
        grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD",
        violations=(("spec.frame_count", "too many"), ("spec.new_thing", "unknown")), retry_after=1.5,
    )  # fmt: skip
    error = translate(_rpc_error(server), server.address)
    assert str(error) == "frames: too many; spec.new_thing: unknown"
    assert isinstance(error, ValueError)
    assert error.retry_after == 1.5


def test_garbage_in_the_details_hides_nothing():
    class Broken(grpc.RpcError, grpc.Call):
        code = staticmethod(lambda: grpc.StatusCode.NOT_FOUND)
        details = staticmethod(lambda: "two\nlines")
        trailing_metadata = staticmethod(lambda: (("grpc-status-details-bin", b"\xff\xff\xff"),))
        add_callback = cancel = is_active = time_remaining = initial_metadata = None

    error = translate(Broken(), "here:1")
    assert type(error) is _errors.NotFoundError
    assert str(error) == "two lines"


def test_an_error_without_a_status():
    assert type(translate(grpc.RpcError("odd"), "here:1")) is _errors.ServerError


def test_a_port_of_something_else(capsys):
    """Of a page or of metrics: what gRPC says about frames and settings helps nobody."""

    class Page(BaseHTTPRequestHandler):
        def log_message(self, *_):
            """It would speak of lines that are no HTTP."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as page:
        thread = threading.Thread(target=page.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        address = f"127.0.0.1:{page.server_port}"
        try:
            with vinf_client.Client(address) as client, pytest.raises(vinf_client.TransportError) as caught:
                client.info()
            assert main(["info", "--server", address]) == 3
        finally:
            page.shutdown()
            thread.join(10)
    told = f"cannot reach a vinf server at {address}: what listens there does not speak gRPC; is it the port of "
    told += "a web page, or of metrics?"
    assert str(caught.value) == told
    assert capsys.readouterr().err == f"vinf info: {told}\n"


def test_all_names_every_error():
    public = {name: value for name, value in vars(_errors).items() if isinstance(value, type)}
    errors = {name for name, value in public.items() if value.__module__ == _errors.__name__}
    assert errors <= set(vinf_client.__all__)


def test_all_is_sorted_and_true():
    assert vinf_client.__all__ == sorted(vinf_client.__all__)
    for name in vinf_client.__all__:
        assert getattr(vinf_client, name).__name__ == name
    assert set(vinf_client.__all__) <= set(dir(vinf_client))
    with pytest.raises(AttributeError):
        vinf_client.nothing  # noqa: B018


def _rpc_error(server):
    from vinf.v1.video_generation_service_pb2 import GetGenerationRequest
    from vinf.v1.video_generation_service_pb2_grpc import VideoGenerationServiceStub

    with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as caught:
        VideoGenerationServiceStub(channel).GetGeneration(GetGenerationRequest(generation_id="gen-1"), timeout=10)
    return caught.value
