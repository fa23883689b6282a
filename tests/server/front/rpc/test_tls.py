"""Certificates: of the server, of clients, and their renewal while streams are open."""

from __future__ import annotations

import os
import subprocess

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from tests.server.fakes import frame_bytes
from tests.support.certificates import Authority
from vinf.v1 import generation_pb2
from vinf.v1 import video_generation_service_pb2 as v1
from vinf_server.flag_values import ConfigError
from vinf_server.front.rpc.doors import Doors
from vinf_server.front.rpc.tls import CertificateFiles

pytestmark = pytest.mark.process

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
LIST = v1.ListGenerationsRequest()


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def other_authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("certificates"), "other")


@pytest.fixture
def files(authority, tmp_path):
    """Copies that a test may change: certificate and key of the server, and the authority of clients."""
    pair = authority.server()
    for source, name in ((pair.certificate, "tls.crt"), (pair.key, "tls.key"), (authority.certificate, "ca.crt")):
        (tmp_path / name).write_bytes(source.read_bytes())
    return tmp_path / "tls.crt", tmp_path / "tls.key", tmp_path / "ca.crt"


def encrypted(files):
    return Doors(CertificateFiles(files[0], files[1], None))


def mutual(files):
    return Doors(CertificateFiles(*files))


def trusting(authority, own=None):
    return grpc.ssl_channel_credentials(
        authority.certificate.read_bytes(),
        *((own.key.read_bytes(), own.certificate.read_bytes()) if own is not None else ()),
    )


def replace(path, content):
    """As a careful operator does: the file is never half there."""
    unfinished = path.with_suffix(".new")
    unfinished.write_bytes(content)
    unfinished.replace(path)


async def unreachable(video):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await video.ListGenerations(LIST, timeout=10)
    assert caught.value.code() is UNAVAILABLE
    return caught.value.details()


async def create(video):
    request = v1.CreateGenerationRequest(spec=generation_pb2.GenerationSpec(prompt="a red circle"))
    return (await video.CreateGeneration(request)).generation.generation_id


def test_encrypted_for_those_who_trust_the_authority(behind, run, files, authority, other_authority):
    async def scenario():
        async with behind(encrypted(files)) as server:
            made = await create(server.video(trusting(authority)))
            assert server.generations.get(made).terms.owner == ""
            assert "CERTIFICATE_VERIFY_FAILED" in await unreachable(server.video(trusting(other_authority)))
            await unreachable(server.video())  # plain text

    run(scenario())


def test_case_44_clients_are_known_by_their_certificates(behind, run, files, authority, other_authority):
    async def scenario():
        async with behind(mutual(files)) as server:
            alice = authority.sign("alice", subject="/CN=Alice Liddell", alternative="DNS:alice.example,DNS:second")
            renewed = authority.sign("alice-again", subject="/CN=x", alternative="DNS:alice.example")
            bob = authority.sign("bob", subject="/CN=bob")
            made = await create(server.video(trusting(authority, alice)))
            assert server.generations.get(made).terms.owner == "alice.example"
            request = v1.GetGenerationRequest(generation_id=made)
            await server.video(trusting(authority, renewed)).GetGeneration(request)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await server.video(trusting(authority, bob)).GetGeneration(request)
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND
            its = await create(server.video(trusting(authority, bob)))
            assert server.generations.get(its).terms.owner == "bob"
            for own in (
                None,
                authority.sign("old", subject="/CN=old", is_expired=True),
                other_authority.sign("stranger", subject="/CN=bob"),
            ):
                await unreachable(server.video(trusting(authority, own)))

    run(scenario())


def test_a_certificate_without_a_name_is_nobody(behind, run, files, authority):
    async def scenario():
        async with behind(mutual(files)) as server:
            nameless = authority.sign("nameless", subject="/O=Somewhere")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await server.video(trusting(authority, nameless)).ListGenerations(LIST)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
            status = status_pb2.Status.FromString(dict(caught.value.trailing_metadata())["grpc-status-details-bin"])
            info = error_details_pb2.ErrorInfo()
            status.details[0].Unpack(info)
            assert info.reason == "CERTIFICATE_INVALID"

    run(scenario())


def test_case_44_renewed_while_streaming(behind, run, files, authority, other_authority, caplog):
    async def scenario():
        certificate, key, _ = files
        old, new = trusting(authority), trusting(other_authority)
        async with behind(encrypted(files)) as server:
            video = server.video(old)
            generation = server.generations.get(await create(video))
            stream = video.StreamFrames(v1.StreamFramesRequest(generation_id=generation.generation_id))
            assert (await stream.read()).HasField("header")

            async def next_frame(index):
                data = frame_bytes(1, index, generation.frames.frame_size)
                await generation.frames.write(index, 0, data, frame_size=len(data))
                server.generations.frame_stored(generation)
                return (await stream.read()).frame.data == data

            assert await next_frame(0)
            pair = other_authority.server()
            # Half of a renewal, and nonsense: the old certificate stays, and says so once.
            for content in (pair.certificate.read_bytes(), b"nonsense"):
                replace(certificate, content)
                for _ in range(2):
                    await server.video(old).ListGenerations(LIST)
            certificate.unlink()
            await server.video(old).ListGenerations(LIST)
            replace(key, pair.key.read_bytes())
            replace(certificate, pair.certificate.read_bytes())
            assert await next_frame(1)
            await server.video(new).ListGenerations(LIST)
            await unreachable(server.video(old))
            assert await next_frame(2), "the open stream went on"

    run(scenario())
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert [error.partition(":")[0] for error in errors] == ["--tls-key", "--tls-cert", "--tls-cert"]
    assert all(error.endswith("; the certificate in use stays") for error in errors)
    assert sum("the certificate was read anew" in record.getMessage() for record in caplog.records) <= 1


def test_the_authority_of_clients_is_read_anew(behind, run, files, authority, other_authority):
    async def scenario():
        async with behind(mutual(files)) as server:
            alice, stranger = authority.sign("a", subject="/CN=a"), other_authority.sign("s", subject="/CN=s")
            await unreachable(server.video(trusting(authority, stranger)))
            replace(files[2], other_authority.certificate.read_bytes())
            await server.video(trusting(authority, stranger)).ListGenerations(LIST)
            await unreachable(server.video(trusting(authority, alice)))

    run(scenario())


@pytest.mark.parametrize(
    ("index", "content", "message"),
    [
        (0, None, "--tls-cert: {path} cannot be read: No such file or directory"),
        (1, None, "--tls-key: {path} cannot be read: No such file or directory"),
        (2, None, "--tls-client-ca: {path} cannot be read: No such file or directory"),
        (0, b"", "--tls-cert: {path} holds no certificate in PEM form"),
        (1, b"nonsense", "--tls-key: {path} holds no private key in PEM form without a password"),
        (2, b"nonsense", "--tls-client-ca: {path} holds no certificate in PEM form"),
        (1, "other", "--tls-key: {path} is not the key of {certificate}"),
    ],
)
def test_mistakes_name_the_flag(files, authority, index, content, message):
    path = files[index]
    if content is None:
        path.unlink()
    else:
        path.write_bytes(authority.sign("other").key.read_bytes() if content == "other" else content)
    with pytest.raises(ConfigError) as caught:
        CertificateFiles(*files)
    assert str(caught.value) == message.format(path=path, certificate=files[0])


def test_a_key_with_a_password_asks_nobody(files):
    os.rename(files[1], files[1].with_suffix(".plain"))
    subprocess.run(
        ["openssl", "pkey", "-in", files[1].with_suffix(".plain"), "-aes256", "-passout", "pass:x", "-out", files[1]],
        check=True,
        timeout=120,
    )
    with pytest.raises(ConfigError, match="without a password"):
        CertificateFiles(*files)
