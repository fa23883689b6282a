"""What is asked for beside the video reaches the server, and what a server tells of it is read."""

import uuid
from datetime import UTC, datetime, timedelta

import grpc
import pytest

from tests.client.fakes import ID, Failure
from vinf.v1 import generation_pb2 as pb
from vinf_client import (
    FrameEvictedError,
    GenerationFailedError,
    GenerationNotFoundError,
    GenerationState,
    InvalidRequestError,
    WrongStateError,
)

pytestmark = pytest.mark.fast


def test_what_is_not_given_is_not_sent(client, server):
    client.submit("a red ball")
    (request,) = server.creates
    given = {field.name for field, _ in request.ListFields()}
    assert given == {"request_id", "spec"}


@pytest.mark.parametrize("call", ["submit", "generate"])
def test_everything_given_is_sent(client, server, call):
    name = str(uuid.uuid4())
    moment = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
    job = {"detached": True, "priority": 0, "deadline": moment, "labels": {"a": "b"}, "preview_every": 5}
    getattr(client, call)("a red ball", request_id=name, **job)
    (request,) = server.creates
    assert (request.request_id, request.detached, dict(request.labels)) == (name, True, {"a": "b"})
    assert request.HasField("priority")
    assert request.priority.value == 0
    assert request.deadline.ToDatetime(tzinfo=UTC) == moment
    assert request.preview_interval_steps == 5


@pytest.mark.parametrize("lease", [90, 90.0, timedelta(seconds=90)])
def test_a_lease(client, server, lease):
    client.submit("a red ball", lease=lease)
    assert server.creates[0].lease_duration.ToTimedelta() == timedelta(seconds=90)


@pytest.mark.parametrize("deadline", [60, timedelta(minutes=1)])
def test_a_deadline_counts_by_the_servers_clock(client, server, deadline):
    server.info.server_time.FromDatetime(datetime(2040, 1, 1))
    client.submit("a red ball", deadline=deadline)
    assert server.creates[0].deadline.ToDatetime() == datetime(2040, 1, 1, 0, 1)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("priority", 1.5),
        ("priority", True),
        ("priority", 2**31),
        ("preview_every", 2.5),
        ("preview_every", 2**31),
        ("deadline", 0),
        ("deadline", float("nan")),
        ("deadline", datetime(2030, 1, 1)),
        ("deadline", "soon"),
        ("lease", -1),
        ("lease", timedelta(0)),
        ("labels", ["a"]),
        ("labels", {"a": 1}),
        ("labels", {"a": "\udcff"}),
        ("request_id", 7),
        ("detached", "yes"),
    ],
)
def test_what_the_wire_cannot_carry_is_refused(client, server, argument, value):
    with pytest.raises(InvalidRequestError) as caught:
        client.submit("a red ball", **{argument: value})
    assert [violation.argument for violation in caught.value.violations] == [argument]
    assert all(request.validate_only for request in server.creates)


def test_a_lease_of_something_detached_is_refused(client):
    with pytest.raises(InvalidRequestError, match=r"^lease: cannot be combined with detached"):
        client.submit("a red ball", detached=True, lease=60)


def test_mistakes_of_both_kinds_come_at_once(client, server):
    server.validate_failure = Failure(
        grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", violations=(("labels", "has a key that is too long"),)
    )
    with pytest.raises(InvalidRequestError) as caught:
        client.submit("a red ball", frames=0, lease=0, priority=3, labels={"a": "b"})
    assert {violation.argument for violation in caught.value.violations} == {"frames", "lease", "labels"}
    (request,) = server.creates
    assert request.validate_only
    assert request.priority.value == 3


def test_check_queues_nothing(client, server):
    client.check("a red ball", window=4, priority=3, preview_every=2)
    (request,) = server.creates
    assert request.validate_only
    assert request.preview_interval_steps == 2
    assert (request.spec.temporal_scope.local_window_frames, request.priority.value) == (4, 3)
    with pytest.raises(InvalidRequestError, match=r"^frames: "):
        client.check("a red ball", frames=0)


@pytest.mark.parametrize(("detached", "cancelled"), [(False, True), (True, False)])
def test_leaving_cancels_unless_detached(client, server, detached, cancelled):
    with client.generate("a red ball", detached=detached):
        pass
    assert server.cancelled.is_set() is cancelled


def test_a_client_limit_is_waited_for_when_the_server_says_how_long(client, server):
    limit = Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "CLIENT_LIMIT", retry_after=0.01)
    server.create_failures.append(limit)
    reasons = []
    client.submit("a red ball", on_wait=lambda error: reasons.append(error.reason))
    assert reasons == ["CLIENT_LIMIT"]


def test_the_fields_of_a_generation(client, server):
    server.state, server.state_reason = pb.GENERATION_STATE_SUSPENDED, "DISK_FULL"
    server.available, server.labels = (2, 5), {"a": "b"}
    found = client.attach(ID).generation
    assert (found.state, found.state_reason) == (GenerationState.SUSPENDED, "DISK_FULL")
    assert (found.first_available_frame_index, found.next_frame_index) == (2, 5)
    assert (found.priority, found.labels, found.detached, found.deadline) == (5, {"a": "b"}, False, None)
    assert not found.ended
    assert not found.complete


def test_fields_newer_than_this_client_are_ignored(client, server, monkeypatch):
    message = server.generation()
    message.MergeFromString(b"\xfa\x3f\x03new")  # field 1023, three bytes
    monkeypatch.setattr(server, "generation", lambda state=None: message)
    assert client.attach(ID).generation.complete


def test_delete(client, server):
    handle = client.attach(ID)
    handle.delete()
    client.delete(ID)
    assert server.deletes == [ID, ID]
    server.delete_failures[ID] = Failure(grpc.StatusCode.FAILED_PRECONDITION, "WRONG_STATE")
    with pytest.raises(WrongStateError):
        handle.delete()
    with pytest.raises(GenerationNotFoundError):
        client.delete("other")


@pytest.mark.parametrize(("text", "index"), [("12", 12), ("", None), ("x", None)])
def test_the_oldest_frame_that_is_kept(text, index):
    error = FrameEvictedError("gone", metadata={"firstAvailableFrameIndex": text})
    assert error.first_available_frame_index == index


def event(sequence, state, reason=""):
    return pb.GenerationEvent(sequence=sequence, state=state, state_reason=reason)


def test_updates_bring_each_event_once(client, server):
    server.events = [event(1, 1, "QUEUED"), event(2, 2), event(3, 77), event(4, 4)]
    server.watch_breaks.extend([Failure(grpc.StatusCode.UNAVAILABLE, "SERVER_DRAINING")] * 2)
    reasons = []
    updates = list(client.attach(ID).updates(on_wait=lambda error: reasons.append(error.reason)))
    events = [found for update in updates for found in update.events]
    assert [found.sequence for found in events] == [1, 2, 3, 4]
    assert [found.state.value for found in events] == ["pending", "running", "unknown", "succeeded"]
    assert server.watches == [0, 2, 4]
    assert reasons == ["SERVER_DRAINING"] * 2
    assert updates[-1].generation.ended


def test_updates_after_a_sequence(client, server):
    server.events = [event(1, 1), event(2, 2), event(3, 4)]
    updates = client.attach(ID).updates(2)
    assert [found.sequence for update in updates for found in update.events] == [3]


def test_an_end_in_a_state_newer_than_this_client_is_an_end(client, server):
    server.state = 99
    server.end_time = datetime(2030, 1, 1, tzinfo=UTC)
    with pytest.raises(GenerationFailedError):
        client.attach(ID).wait()
    assert len(server.watches) == 1
