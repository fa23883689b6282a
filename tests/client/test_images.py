"""Image conditions through the SDK: what may be given, what is sent, what is refused, what comes back."""

import asyncio
import io
import threading

import grpc
import numpy as np
import pytest
from PIL import Image

from tests.client.fakes import Failure
from tests.support.pictures import encoded, halves, noise
from vinf.v1 import generation_pb2 as pb
from vinf.v1 import server_info_service_pb2 as info_pb
from vinf_client import AsyncClient, ImageCondition, ImageDigest, ImageFrames, InvalidRequestError, Violation, _images
from vinf_server.front.rpc.images import decode

pytestmark = pytest.mark.fast

PICTURE = noise(12, 8)
PNG = encoded(PICTURE)


def sent(server):
    return [(condition.frame_index, condition.image) for condition in server.creates[-1].spec.image_conditions]


@pytest.mark.parametrize("form", [bytes, bytearray, memoryview, "path", "text"])
def test_a_file_is_sent_as_it_is(client, server, tmp_path, form):
    path = tmp_path / "first.png"
    path.write_bytes(PNG)
    image = {"path": path, "text": str(path)}.get(form) or form(PNG)
    client.submit("a red ball", image_conditions=[ImageCondition(0, image)])
    assert sent(server) == [(0, PNG)]


@pytest.mark.parametrize("form", ["picture", "array", "view"])
def test_pixels_are_sent_as_png(client, server, form):
    array = np.asarray(PICTURE)
    image = {"picture": PICTURE, "array": array, "view": np.repeat(array, 2, axis=1)[:, ::2]}[form]
    client.submit("a red ball", image_conditions=(ImageCondition(np.int64(3), image),))
    ((frame, data),) = sent(server)
    assert frame == 3
    assert data.startswith(b"\x89PNG")
    with Image.open(io.BytesIO(data)) as picture:
        assert (np.asarray(picture) == array).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_its_file_would_be(client, server, orientation):
    file = io.BytesIO(
        encoded(halves(16, 8, orientation=orientation), exif=halves(16, 8, orientation=orientation).info["exif"])
    )
    with Image.open(file) as picture:
        client.submit("a red ball", image_conditions=[ImageCondition(0, picture), ImageCondition(1, file.getvalue())])
    turned, as_it_is = (decode(data, 16, 16) for _, data in sent(server))
    assert turned == as_it_is


def test_a_frame_of_another_video_is_an_image(client, server):
    with client.generate("a red ball", frames=3) as video:
        last = list(video)[-1]
    client.submit("a red ball", image_conditions=[ImageCondition(0, last)])
    ((_, data),) = sent(server)
    with Image.open(io.BytesIO(data)) as picture:
        assert (np.asarray(picture) == last.to_numpy()).all()


@pytest.mark.parametrize(("frames", "last"), [(None, 15), (48, 47)])
def test_the_last_frame_is_the_videos_own(client, server, frames, last):
    conditions = [ImageCondition(0, PNG), ImageCondition(-1, PNG)]
    client.submit("a red ball", frames=frames, image_conditions=conditions)
    assert sent(server) == [(0, PNG), (last, PNG)]
    client.check("a red ball", frames=frames, image_conditions=conditions)
    assert sent(server) == [(0, PNG), (last, PNG)]


@pytest.mark.parametrize("none", [None, [], ()])
def test_without_images_nothing_is_sent(client, server, none):
    client.submit("a red ball", image_conditions=none)
    assert server.creates[0].spec == pb.GenerationSpec(prompt="a red ball")


IMAGE = "image_conditions[0].image: "
FRAME = "image_conditions[0].frame_index: "
FORMS = "allowed: a PNG or JPEG file as bytes or by its path, a PIL image, or an array of uint8 [H, W, 3]"


@pytest.mark.parametrize(
    ("conditions", "words"),
    [
        (PNG[:4], r"image_conditions: must be a list of ImageCondition, got b'\x89PNG'"),
        ([PNG[:4]], r"image_conditions[0]: must be an ImageCondition, got b'\x89PNG'"),
        ([ImageCondition(-2, PNG)], f"{FRAME}-2 is not allowed; allowed: at least 0, or -1 for the last frame"),
        ([ImageCondition(2**63, PNG)], f"{FRAME}{2**63} is not allowed; allowed: at least 0, or -1 for the last frame"),
        ([ImageCondition(True, PNG)], f"{FRAME}must be a whole number, got True"),
        ([ImageCondition("0", PNG)], f"{FRAME}must be a whole number, got '0'"),
        ([ImageCondition(0, "none.png")], f"{IMAGE}none.png cannot be read: No such file or directory"),
        ([ImageCondition(0, "a\0b")], f"{IMAGE}a\0b cannot be read: embedded null byte"),
        ([ImageCondition(0, ".")], f"{IMAGE}. is a folder; allowed: a PNG or JPEG file"),
        ([ImageCondition(0, "/dev/zero")], f"{IMAGE}/dev/zero is no file; allowed: a PNG or JPEG file"),
        ([ImageCondition(0, None)], f"{IMAGE}None is not allowed; {FORMS}"),
        ([ImageCondition(0, [[1]])], f"{IMAGE}[[1]] is not allowed; {FORMS}"),
        (
            [ImageCondition(0, np.zeros((2, 2, 3)))],
            f"{IMAGE}an array of float64 [2, 2, 3] is not allowed; {FORMS}",
        ),
        (
            [ImageCondition(0, np.zeros((2, 2), np.uint8))],
            f"{IMAGE}an array of uint8 [2, 2] is not allowed; {FORMS}",
        ),
        (
            [ImageCondition(0, np.zeros((0, 2, 3), np.uint8))],
            f"{IMAGE}an array of uint8 [0, 2, 3] is not allowed; {FORMS}",
        ),
        (
            [ImageCondition(0, bytes(8 << 20)), ImageCondition(1, bytes(8 << 20))],
            "image_conditions: the files have 16777216 bytes; allowed: at most 15728640 together",
        ),
    ],
)
def test_what_cannot_travel_is_refused(client, server, conditions, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidRequestError) as caught:
        client.submit("a red ball", image_conditions=conditions)
    assert str(caught.value) == words
    assert all(request.validate_only for request in server.creates)


def test_a_file_beyond_the_limit_is_not_read(client, server, tmp_path):
    with open(tmp_path / "large.png", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InvalidRequestError, match=f"the files have {1 << 40} bytes; allowed: at most 15728640"):
        client.submit("a red ball", image_conditions=[ImageCondition(0, tmp_path / "large.png")])


def test_pixels_that_grow_too_large_are_refused(client, monkeypatch):
    monkeypatch.setattr(_images, "_MOST_BYTES", 100)
    with pytest.raises(InvalidRequestError, match=r"the files have \d+ bytes; allowed: at most 100"):
        client.submit("a red ball", image_conditions=[ImageCondition(0, PICTURE)])


def test_a_file_that_goes_away_is_told(client, tmp_path, monkeypatch):
    path = tmp_path / "first.png"
    path.write_bytes(PNG)
    monkeypatch.setattr(_images, "_size_of", lambda image: path.unlink(missing_ok=True) or 1)
    with pytest.raises(InvalidRequestError, match=r"image_conditions\[0\]\.image: cannot be read: No such file"):
        client.submit("a red ball", image_conditions=[ImageCondition(0, path)])


def test_a_picture_with_a_broken_orientation_is_told(client):
    picture = noise(12, 8)
    picture.info["exif"] = b"nonsense"
    with pytest.raises(InvalidRequestError, match=r"image_conditions\[0\]\.image: cannot be read: not a TIFF file"):
        client.submit("a red ball", image_conditions=[ImageCondition(0, picture)])


def test_the_event_loop_reads_no_file(server, tmp_path):
    threads = set()

    class Watched:
        def __fspath__(self):
            threads.add(threading.current_thread())
            return str(tmp_path / "first.png")

    async def main():
        (tmp_path / "first.png").write_bytes(PNG)
        async with AsyncClient(server.address) as client:
            await client.submit("a red ball", image_conditions=[ImageCondition(0, Watched())])
            await client.check("a red ball", image_conditions=[ImageCondition(0, Watched())])
            with pytest.raises(InvalidRequestError):
                await client.submit("a red ball", steps=-1, image_conditions=[ImageCondition(0, Watched())])

    asyncio.run(main())
    assert [request.spec.image_conditions[0].image for request in server.creates] == [PNG] * 3
    assert threads
    assert threading.current_thread() not in threads


def test_the_servers_violations_come_beside_ours(client, server):
    server.validate_failure = Failure(
        grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", violations=(("spec.prompt", "is too long"),)
    )
    with pytest.raises(InvalidRequestError) as caught:
        client.submit("a red ball", image_conditions=[ImageCondition(0, b"GIF"), ImageCondition(-5, PNG)])
    assert [violation.argument for violation in caught.value.violations] == [
        "image_conditions[1].frame_index",
        "prompt",
    ]


def test_digests_come_back_and_limits_are_told(client, server):
    server.image_conditions = [pb.ImageCondition(frame_index=3, image_sha256="ab")]
    assert client.submit("a red ball").generation.spec.image_conditions == (ImageDigest(3, "ab"),)
    assert client.info().models[0].image_frames is ImageFrames.NONE
    model = server.info.models[0]
    model.image_frames, model.max_image_count = info_pb.IMAGE_FRAMES_FIRST_AND_LAST, 2
    model.min_image_count = 1
    server.info.limits.max_image_bytes, server.info.limits.max_image_pixels = 10, 20
    info = client.info()
    assert (info.models[0].image_frames, info.models[0].max_image_count) == (ImageFrames.FIRST_AND_LAST, 2)
    assert info.models[0].min_image_count == 1
    assert (info.limits.max_image_bytes, info.limits.max_image_pixels) == (10, 20)
    model.image_frames = 99
    assert client.info().models[0].image_frames is ImageFrames.UNKNOWN


@pytest.mark.parametrize("path", ["", "[3]", "[0].image", "[12].frame_index"])
def test_paths_of_the_wire_read_like_python(path):
    assert Violation(f"spec.image_conditions{path}", "").argument == f"image_conditions{path}"
