"""Exceptions on the wire."""

from __future__ import annotations

from urllib.parse import quote

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from vinf_server.front import errors
from vinf_server.front.rpc.errors import MAX_DETAILS_BYTES, TABLE, to_wire

pytestmark = pytest.mark.fast


def details(wire) -> dict[str, object]:
    status = status_pb2.Status.FromString(dict(wire.trailers)["grpc-status-details-bin"])
    assert status.code == wire.code.value[0]
    unpacked = {}
    for packed in status.details:
        kind = getattr(error_details_pb2, packed.type_url.rpartition(".")[2])
        message = kind()
        packed.Unpack(message)
        assert kind.__name__ not in unpacked
        unpacked[kind.__name__] = message
    return unpacked


def subclasses(kind):
    for child in kind.__subclasses__():
        yield child
        yield from subclasses(child)


def test_every_exception_has_a_status():
    assert set(subclasses(errors.VinfError)) - {errors.RetryLaterError} == set(TABLE)  # a base of others


def test_violations_become_a_bad_request():
    wire = to_wire(errors.InvalidFieldsError([errors.Violation("spec.width", "must be even, got 3")]))
    found = details(wire)
    assert wire.code is grpc.StatusCode.INVALID_ARGUMENT
    assert wire.message == "spec.width: must be even, got 3"
    assert (found["ErrorInfo"].reason, found["ErrorInfo"].domain) == ("INVALID_FIELD", "vinf")
    assert found["BadRequest"].field_violations[0].field == "spec.width"


@pytest.mark.parametrize("text", ["x" * 1000, "ü" * 1000, "🎬" * 1000])
def test_details_stay_small_whatever_was_sent(text):
    wire = to_wire(errors.InvalidFieldsError([errors.Violation(f"field{i}", text) for i in range(30)]))
    assert len(dict(wire.trailers)["grpc-status-details-bin"]) <= MAX_DETAILS_BYTES
    assert len(quote(wire.message)) <= 1200
    assert details(wire)["ErrorInfo"].metadata["truncated"] == "true"
    assert details(wire)["ErrorInfo"].metadata["fieldCount"] == "30"


def test_first_20_violations_are_listed():
    wire = to_wire(errors.InvalidFieldsError([errors.Violation(f"f{i}", "bad") for i in range(21)]))
    assert len(details(wire)["BadRequest"].field_violations) == 20
    assert details(wire)["ErrorInfo"].metadata["truncated"] == "true"


@pytest.mark.parametrize("kind", [errors.WorkersNotReadyError, errors.ServerDrainingError])
def test_what_passes_says_when_to_try_again(kind):
    assert details(to_wire(kind("later")))["RetryInfo"].retry_delay.seconds > 0


@pytest.mark.parametrize("kind", [errors.QueueFullError, errors.ClientLimitError, errors.DiskFullError])
def test_what_is_full_says_when_there_may_be_room_to_grpc_too(kind):
    wire = to_wire(kind("later", retry_s=7.5))
    assert details(wire)["RetryInfo"].retry_delay.ToMilliseconds() == 7500
    assert dict(wire.trailers)["grpc-retry-pushback-ms"] == "7500"


def test_a_bug_tells_nothing():
    wire = to_wire(ZeroDivisionError("secret"))
    assert wire.code is grpc.StatusCode.INTERNAL
    assert "secret" not in wire.message
