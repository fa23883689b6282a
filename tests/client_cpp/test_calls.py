"""Everything but frames, and one clear status for everything that goes wrong."""

from __future__ import annotations

import hashlib
import socket
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.client.fakes import ID, FakeServer
from tests.client_cpp.conftest import BUILD_TIMEOUT_S
from tests.support.certificates import Authority
from tests.support.pictures import encoded, noise
from vinf.v1 import generation_pb2 as pb

pytestmark = [pytest.mark.process, pytest.mark.timeout(BUILD_TIMEOUT_S)]


def test_a_generation_from_create_to_delete(front, drive_once):
    drive = drive_once
    made = drive("create", "--detached", server=front.address, prompt="a red circle slow", seed=7)
    generation_id, _, seed, frames = made.one("generation").split(" ")
    assert (seed, frames) == ("seed=7", "frames=16")
    assert drive("get", server=front.address, generation=generation_id).status == "OK reason="
    assert generation_id in {line.split(" ")[0] for line in drive("list", server=front.address).all("generation")}
    refused = drive("delete", server=front.address, generation=generation_id)
    assert refused.status == "FAILED_PRECONDITION reason=WRONG_STATE"
    assert drive("cancel", server=front.address, generation=generation_id).status == "OK reason="
    watched = drive("watch", server=front.address, generation=generation_id)
    sequences = [int(sequence) for sequence, _ in watched.pairs("event")]
    assert sequences == list(range(1, len(sequences) + 1))
    assert watched.pairs("event")[-1][1] == "cancelled"
    assert drive("watch", server=front.address, generation=generation_id, after=sequences[-1]).pairs("event") == []
    pulled = drive("next", server=front.address, generation=generation_id)
    assert pulled.status == "CANCELLED reason=CANCEL_REQUESTED"
    assert drive("delete", server=front.address, generation=generation_id).status == "OK reason="
    assert (
        drive("get", server=front.address, generation=generation_id).status == "NOT_FOUND reason=GENERATION_NOT_FOUND"
    )


def test_the_same_request_id_is_the_same_generation(front, drive_once):
    wish = {"server": front.address, "prompt": "a blue square", "request_id": str(uuid.uuid4())}
    first, again = (drive_once("create", "--detached", **wish).one("generation").split(" ")[0] for _ in range(2))
    assert first == again
    reused = drive_once("create", "--detached", **(wish | {"prompt": "a red square"}))
    assert reused.status == "ALREADY_EXISTS reason=REQUEST_ID_REUSED"


def test_what_a_frame_sees(front, drive_once):
    def scope(**wanted):
        return drive_once("create", "--detached", server=front.address, prompt="a red circle", **wanted)

    assert scope(global_frames=4, initial_noise=2, global_choice=2).one("scope") == "globals=4 noise=2 choice=2"
    assert scope(global_frames=0).one("scope") == "globals=0 noise=1 choice=1"
    refused = scope(global_frames=0, initial_noise=3, global_choice=2).all("violation")
    assert {text.partition(":")[0] for text in refused} == {
        "spec.temporal_scope.initial_noise",
        "spec.temporal_scope.global_choice",
    }


@pytest.mark.parametrize("number", [-1, 3, 99])
def test_kinds_of_a_newer_server_are_unknown(drive_once, number):
    fake = FakeServer()
    fake.scope, fake.solver = pb.TemporalScope(initial_noise=number, global_choice=number), number
    try:
        told = drive_once("get", server=fake.address, generation=ID)
    finally:
        fake.stop()
    assert told.one("scope") == "globals=0 noise=0 choice=0"
    assert told.one("solved") == ("3" if number == pb.SOLVER_FLOW_EULER else "-1")


@pytest.mark.parametrize(("wanted", "solved"), [(0, 1), (1, 1), (2, 2), (-1, 1)])
def test_a_solver_by_number_and_one_that_is_unknown_is_the_default(front, drive_once, wanted, solved):
    created = drive_once("create", "--detached", server=front.address, prompt="a red circle", solver=wanted)
    assert created.one("solved") == str(solved)


def test_the_servers_models(front, drive_once):
    told = drive_once("info", server=front.address)
    assert told.one("mesh") == "2 x 1 x 1"
    assert told.one("model") == "scripted 64"
    assert told.one("images") == "2 2"
    assert told.one("lengths") == "in steps of 1, 2 prompt(s)"
    assert told.all("solver") == ["1", "2"]


def test_an_image_goes_along_and_its_digest_comes_back(front, drive_once, tmp_path):
    """A file with zeros in it: bytes, not text."""
    picture = tmp_path / "last.png"
    picture.write_bytes(encoded(noise()))
    wish = {"server": front.address, "prompt": "a red circle", "image": picture}
    made = drive_once("create", "--detached", **wish, image_frame=15)
    assert made.one("image") == f"15 {hashlib.sha256(picture.read_bytes()).hexdigest()}"
    refused = drive_once("create", "--detached", **wish, image_frame=3)
    assert refused.status == "INVALID_ARGUMENT reason=INVALID_FIELD"
    assert refused.one("violation").startswith("spec.image_conditions[0].frame_index: must be 0 or 15")


def test_images_that_fit_no_request_are_refused_here(drive_once, tmp_path):
    picture = tmp_path / "large.png"
    picture.write_bytes(bytes((15 << 20) + 1))
    refused = drive_once("create", server="127.0.0.1:1", prompt="a red circle", image=picture)
    assert refused.status == "INVALID_ARGUMENT reason=INVALID_FIELD"
    words = "the files have 15728641 bytes; allowed: at most 15728640 together"
    assert refused.one("violation") == f"spec.image_conditions: {words}"


def test_a_watch_is_resumed_without_losing_an_event(start_front, drive):
    front = start_front()
    front.hold_from(1)
    generation = front.make(frames=40, wait=False)
    running = drive.start("watch", server=front.address, generation=generation)
    running.wait_for("event 2 ")
    front.kill()
    front.let_go()
    front.begin()
    outcome = running.end()
    assert outcome.status == "OK reason="
    sequences = [int(sequence) for sequence, _ in outcome.pairs("event")]
    assert sequences == list(range(1, len(sequences) + 1))
    assert len(sequences) >= 5, "pending, running, pending again, running again, succeeded"


def test_a_closed_client_ends_everything_that_waits(front, drive):
    """A puller and a watch of a generation that goes on, from other threads; frames that were taken stay."""
    made = drive("create", "--detached", server=front.address, prompt="a red circle slow")
    generation_id = made.one("generation").split(" ")[0]
    outcome = drive("close", server=front.address, generation=generation_id)
    assert outcome.all("status") == ["CANCELLED reason=CLIENT_CLOSED"] * 3
    assert outcome.one("kept") == f"0 {64 * 64 * 3}"
    assert drive("cancel", server=front.address, generation=generation_id).status == "OK reason="


def test_unknown_ids(front, drive):
    for command in ("get", "watch", "cancel", "delete", "next"):
        outcome = drive(command, server=front.address, generation="nope")
        assert outcome.status == "NOT_FOUND reason=GENERATION_NOT_FOUND", command
        assert "generationId=nope" in outcome.all("metadata")


def test_every_violation_is_told(front, drive_once):
    outcome = drive_once("create", server=front.address, prompt="a purple house", width=33)
    assert outcome.status == "INVALID_ARGUMENT reason=INVALID_FIELD"
    assert {text.partition(":")[0] for text in outcome.all("violation")} == {"spec.prompt", "spec.width"}
    assert all(text in outcome.one("message") for text in outcome.all("violation"))


def test_what_the_wire_cannot_say_is_refused_here(front, drive_once):
    outcome = drive_once("create", server=front.address, prompt=b"caf\xe9".decode("utf-8", "surrogateescape"), width=0)
    assert {text.partition(":")[0] for text in outcome.all("violation")} == {"spec.prompt", "spec.width"}


def test_formats_the_server_does_not_make(front, drive_once):
    generation = front.make(frames=1)
    outcome = drive_once("next", server=front.address, generation=generation, encoding=3, pixels=3)
    assert outcome.status == "INVALID_ARGUMENT reason=INVALID_FIELD"
    assert outcome.all("violation")[0].startswith("output_format.pixel_format")


def test_options_are_checked_before_anything_is_sent(drive_once):
    outcome = drive_once("next", server="127.0.0.1:1", generation="x", ring=1, max_message=1, start=-1)
    assert {text.partition(":")[0] for text in outcome.all("violation")} == {
        "ring_frames",
        "max_message_bytes",
        "start_frame",
    }


def test_nobody_listens(drive_once):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
        for command in ("info", "next", "watch"):
            outcome = drive_once(command, server=address, generation="x")
            assert outcome.status == "UNAVAILABLE reason="
            assert outcome.one("message") == f"cannot reach a vinf server at {address}: connection refused"


def test_what_listens_there_speaks_another_language(drive_once):
    class Page(BaseHTTPRequestHandler):
        def log_message(self, *_):
            """It would speak of lines that are no HTTP."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as page:
        thread = threading.Thread(target=page.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            outcome = drive_once("info", server=f"127.0.0.1:{page.server_port}")
        finally:
            page.shutdown()
            thread.join(10)
    assert outcome.one("message").endswith(
        ": what listens there does not speak gRPC; is it the port of a web page, or of metrics?"
    )


def test_somebody_listens_and_says_nothing(drive_once):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        outcome = drive_once("info", server=address, connect_timeout_ms=300)
    assert outcome.one("message") == f"cannot reach a vinf server at {address}: no answer within 300 ms"


@pytest.mark.parametrize("address", ["nonsense", "host:0", "http://127.0.0.1:1"])
def test_addresses_that_are_none(drive_once, address):
    outcome = drive_once("info", server=address)
    assert outcome.status == "INVALID_ARGUMENT reason=INVALID_FIELD"
    assert outcome.one("message").startswith("address: must be HOST:PORT")


def test_a_token_does_not_leave_the_machine_unencrypted(drive_once):
    outcome = drive_once("info", server="gpu.example.com:50051", token="secret-token")
    assert outcome.one("violation").startswith("token: would travel to gpu.example.com:50051 without encryption")
    assert not any("secret-token" in line for line in outcome.lines)


def test_tls_and_tokens(start_front, drive_once, tmp_path):
    authority = Authority(tmp_path / "certificates")
    pair = authority.server()
    tokens = tmp_path / "tokens"
    tokens.write_text(f"alice {hashlib.sha256(b'vinf_right').hexdigest()}\n")
    front = start_front(
        *("--tls-cert", str(pair.certificate), "--tls-key", str(pair.key), "--tokens", str(tokens)),
    )
    trusting = {"server": front.address, "tls_ca": authority.certificate}
    assert drive_once("info", **trusting, token="vinf_right").status == "OK reason="
    missing = drive_once("info", **trusting)
    assert missing.status == "UNAUTHENTICATED reason=TOKEN_MISSING"
    assert "VINF_TOKEN" in missing.one("message")
    wrong = drive_once("next", **trusting, token="vinf_wrong", generation="x")
    assert wrong.status == "UNAUTHENTICATED reason=TOKEN_INVALID"
    stranger = Authority(tmp_path / "stranger")
    untrusted = drive_once("info", server=front.address, tls_ca=stranger.certificate, token="vinf_right")
    assert untrusted.status == "UNAVAILABLE reason="
    plain = drive_once("info", server=front.address)
    assert plain.status == "UNAVAILABLE reason="
