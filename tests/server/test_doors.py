"""A whole front behind TLS and tokens: what it writes down, who may read it, and strangers at its door."""

from __future__ import annotations

import hashlib
import os
import socket
import stat
from pathlib import Path
from types import SimpleNamespace

import grpc
import psutil
import pytest

from tests.server.conftest import QUICK_AGENT, wait_until
from tests.support.certificates import Authority
from vinf.v1 import generation_pb2
from vinf.v1 import video_generation_service_pb2 as v1
from vinf.v1.video_generation_service_pb2_grpc import VideoGenerationServiceStub
from vinf_client import AuthenticationError, Client, TransportError

pytestmark = pytest.mark.process

TOKEN = "vinf_marker-of-a-token"
# The scripted ranks take these words for stage directions where they know them.
PROMPT = "a red marker-of-a-prompt \x00\x1b[31m\u202e"
TIMEOUT_S = 30


@pytest.fixture
def guarded(front_process, tmp_path, monkeypatch):
    """A front with certificates for both sides, tokens, and a client that has both."""
    monkeypatch.delenv("GRPC_VERBOSITY", raising=False)
    authority = Authority(tmp_path / "certificates")
    pair, own = authority.server(), authority.sign("alice", subject="/CN=alice")
    tokens = tmp_path / "tokens"
    tokens.write_text(f"alice {hashlib.sha256(TOKEN.encode()).hexdigest()}\n")
    front = front_process(
        *QUICK_AGENT,
        *("--tls-cert", str(pair.certificate), "--tls-key", str(pair.key)),
        *("--tls-client-ca", str(authority.certificate), "--tokens", str(tokens)),
    )
    ready = front.wait_ready()
    credentials = grpc.ssl_channel_credentials(
        authority.certificate.read_bytes(), own.key.read_bytes(), own.certificate.read_bytes()
    )
    with grpc.secure_channel(ready["listen"], credentials) as channel:
        yield SimpleNamespace(
            front=front,
            files={"tls_ca": authority.certificate, "tls_cert": own.certificate, "tls_key": own.key},
            listen=ready["listen"],
            video=VideoGenerationServiceStub(channel),
            metadata=(("authorization", f"Bearer {TOKEN}"),),
        )


def generate(guarded, prompt, **fields):
    """The last state of a generation, and its reader's frames."""
    spec = generation_pb2.GenerationSpec(prompt=prompt, frame_count=4, **fields)
    options = {"metadata": guarded.metadata, "timeout": TIMEOUT_S}
    made = guarded.video.CreateGeneration(v1.CreateGenerationRequest(spec=spec), **options).generation
    by_id = {"generation_id": made.generation_id}
    frames = [r for r in guarded.video.StreamFrames(v1.StreamFramesRequest(**by_id), **options) if r.HasField("frame")]
    return guarded.video.GetGeneration(v1.GetGenerationRequest(**by_id), **options).generation, frames


def test_tokens_and_prompts_are_in_no_log(guarded):
    with pytest.raises(grpc.RpcError) as caught:
        generate(guarded, PROMPT)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, "not in the model's vocabulary"
    state = generation_pb2.GenerationState
    made, frames = generate(guarded, "a blue square", negative_prompt="slow red circle")
    assert made.state == state.GENERATION_STATE_SUCCEEDED
    assert len(frames) == 4
    assert generate(guarded, "a blue square fail")[0].state == state.GENERATION_STATE_FAILED
    with pytest.raises(grpc.RpcError):
        guarded.video.GetGeneration(v1.GetGenerationRequest(), metadata=(("authorization", f"Bearer {TOKEN}x"),))
    assert guarded.front.stop() == 0
    logs = [guarded.front.stderr_path, *(path for path in (guarded.front.folder / "data" / "logs").rglob("*"))]
    written = {path: path.read_text(errors="replace") for path in logs if path.is_file()}
    assert len(written) > 1, "the ranks write logs, too"
    assert made.generation_id in written[guarded.front.stderr_path]
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    for path, text in written.items():
        for secret in ("marker-of-a", "blue square", "slow red", digest, "\x1b", "\x00", "\u202e"):
            assert secret not in text, f"{secret!r} in {path}"


def test_the_sdk_comes_in_with_both(guarded):
    with Client(guarded.listen, token=TOKEN, **guarded.files) as client:
        assert len(list(client.generate("a blue square", frames=4))) == 4
        assert len(client.list()) == 1
    with (
        Client(guarded.listen, token=f"{TOKEN}x", **guarded.files) as client,
        pytest.raises(AuthenticationError, match="the token is not known here; check that it is the one"),
    ):
        client.info()
    with Client(guarded.listen, token=TOKEN, tls_ca=guarded.files["tls_ca"]) as client, pytest.raises(TransportError):
        client.info()


def test_the_engine_link_and_the_frames_are_this_users_own(guarded):
    data = guarded.front.folder / "data"
    # In the data directory, or where its path is too long for a socket among the temporary files.
    sockets = [Path(c.laddr) for c in psutil.Process(guarded.front.process.pid).net_connections("unix") if c.laddr]
    (private,) = {path.parent for path in sockets if path.name == "engine.sock"}

    def mode(path):
        return oct(stat.S_IMODE(path.stat().st_mode))

    assert mode(private) == mode(data / "spool") == mode(data / "checkpoints") == "0o700"
    assert mode(private / "engine.sock") == "0o600"


def test_case_25_strangers_cause_no_flood_in_the_log(guarded):
    host, _, port = guarded.listen.rpartition(":")
    front = guarded.front
    before = len(front.stderr.splitlines())
    descriptors = f"/proc/{front.process.pid}/fd"
    open_before = len(os.listdir(descriptors))
    words = (
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01" + bytes(200),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"",
    )
    for number in range(200):
        with socket.create_connection((host, int(port)), timeout=10) as stranger:
            stranger.sendall(words[number % len(words)])
    for _ in range(50):
        with pytest.raises(grpc.RpcError):
            guarded.video.GetGeneration(v1.GetGenerationRequest(), timeout=TIMEOUT_S)
    made, _ = generate(guarded, "a blue square")
    assert made.state == generation_pb2.GenerationState.GENERATION_STATE_SUCCEEDED
    wait_until(lambda: len(os.listdir(descriptors)) <= open_before + 10, what="descriptors of strangers are closed")
    assert len(front.stderr.splitlines()) - before <= 5, front.stderr
    assert front.process.poll() is None
