"""Pictures that clients send: what is taken, what it becomes, what is refused, and that nothing large is decoded."""

from __future__ import annotations

import asyncio
import hashlib
import random
import threading
import tracemalloc
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image, ImageFile

from tests.server.fakes import memory_model, model_limits, until
from tests.support.pictures import bomb, encoded, halves, noise, refused_files
from vinf.v1 import generation_pb2, video_generation_service_pb2
from vinf_server.front.errors import InvalidFieldsError, QueueFullError
from vinf_server.front.rpc import images
from vinf_server.front.rpc.images import ImageError, ImageTaker, decode
from vinf_server.front.rpc.server import MAX_REQUEST_BYTES
from vinf_server.front.rpc.validation import check_create

pytestmark = pytest.mark.fast

RED, BLUE = (255, 0, 0), (0, 0, 255)


def pixels(data: bytes, width: int = 64, height: int = 64) -> np.ndarray:
    return np.frombuffer(decode(data, width, height), np.uint8).reshape(height, width, 3)


def condition(image: bytes = b"", frame_index: int = 0, **fields: object) -> generation_pb2.ImageCondition:
    return generation_pb2.ImageCondition(frame_index=frame_index, image=image, **fields)


def spec(*conditions: generation_pb2.ImageCondition, **fields: object) -> generation_pb2.GenerationSpec:
    return generation_pb2.GenerationSpec(prompt="a red circle", image_conditions=conditions, **fields)


def check(wanted: generation_pb2.GenerationSpec, **limits: object):
    """What becomes of a specification, as `Admission` has it done."""
    model = model_limits(**limits)
    taken = asyncio.run(ImageTaker().take(wanted, model))
    request = video_generation_service_pb2.CreateGenerationRequest(spec=wanted)
    return check_create(request, model, memory_model(), found=taken.violations)[0], taken.pixels


def violated(wanted: generation_pb2.GenerationSpec, **limits: object) -> dict[str, str]:
    with pytest.raises(InvalidFieldsError) as caught:
        check(wanted, **limits)
    return {violation.field: violation.description for violation in caught.value.violations}


# ---- what a picture becomes ----


def test_a_picture_in_the_videos_size_stays_as_it_is():
    picture = noise()
    assert (pixels(encoded(picture)) == np.asarray(picture)).all()


@pytest.mark.parametrize(("width", "height"), [(128, 64), (64, 128), (1000, 64)])
def test_it_covers_the_video_and_is_cut_evenly(width, height):
    picture = Image.new("RGB", (width, height), RED)
    # What is in the middle stays.
    picture.paste(BLUE, (width // 2 - 16, height // 2 - 16, width // 2 + 16, height // 2 + 16))
    made = pixels(encoded(picture))
    assert tuple(made[32, 32]) == BLUE
    assert [tuple(made[y, x]) for y, x in ((2, 2), (61, 2), (2, 61), (61, 61))] == [RED] * 4
    assert (made == made[::-1]).all()
    assert (made == made[:, ::-1]).all()


@pytest.mark.parametrize(
    ("orientation", "left", "right"),
    [(1, RED, BLUE), (2, BLUE, RED), (3, BLUE, RED), (4, RED, BLUE)],
)
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_it_is_turned_as_exif_says(orientation, left, right, kind):
    picture = halves(128, 64, orientation=orientation)
    made = pixels(encoded(picture, kind, exif=picture.info["exif"]), 128, 64).astype(int)
    assert abs(made[32, 10] - left).max() < 8
    assert abs(made[32, 117] - right).max() < 8


@pytest.mark.parametrize(("orientation", "top"), [(5, RED), (6, RED), (7, BLUE), (8, BLUE)])
def test_it_is_laid_on_its_side_as_exif_says(orientation, top):
    picture = halves(128, 64, orientation=orientation)
    made = pixels(encoded(picture, exif=picture.info["exif"]), 64, 128)
    assert tuple(made[10, 32]) == top
    assert tuple(made[117, 32]) == {RED: BLUE, BLUE: RED}[top]


def test_transparent_parts_are_laid_over_black():
    picture = Image.new("RGBA", (64, 64), (*RED, 255))
    picture.paste((0, 255, 0, 0), (0, 0, 32, 64))
    picture.paste((255, 255, 255, 51), (0, 0, 32, 32))
    made = pixels(encoded(picture))
    assert [tuple(made[y, x]) for y, x in ((10, 10), (50, 10), (50, 50))] == [(51, 51, 51), (0, 0, 0), RED]


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "PA"])
def test_grey_and_palettes_become_rgb(mode):
    picture = halves(64, 64).convert("RGB").convert(mode if mode != "PA" else "P")
    options = {"transparency": 0} if mode == "PA" else {}
    wanted = picture.convert("RGB")
    made = pixels(encoded(picture, **options))
    if mode == "PA":
        clear = np.asarray(picture) == 0
        assert (made[clear] == 0).all()
        assert (made[~clear] == np.asarray(wanted)[~clear]).all()
    else:
        assert (made == np.asarray(wanted)).all()


# ---- what is refused ----


@pytest.mark.parametrize("name", sorted(refused_files()))
def test_case_15_broken_and_hostile_images_are_refused_by_name(name):
    data, words = refused_files()[name]
    assert violated(spec(condition(data))) == {"spec.image_conditions[0].image": words}


def test_case_15_a_bomb_is_never_decoded(monkeypatch):
    data, reached = bomb(), []
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda picture: reached.append(picture))
    tracemalloc.start()
    with pytest.raises(ImageError, match="20000 x 20000"):
        decode(data, 64, 64)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(data) < 60_000
    assert not reached
    assert peak < 1 << 20


def test_the_largest_picture_is_taken_and_one_more_row_is_not():
    side = 4096
    assert side * side == images.MAX_IMAGE_PIXELS
    decode(encoded(Image.new("L", (side, side))), 64, 64)
    with pytest.raises(ImageError, match="got 4096 x 4097"):
        decode(encoded(Image.new("L", (side, side + 1))), 64, 64)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (60_000, 1), (1, 60_000)])
def test_pictures_of_odd_shapes(width, height):
    assert (pixels(encoded(Image.new("RGB", (width, height), RED)), 512, 32) == RED).all()


def test_a_jpeg_of_endless_scans_is_refused():
    data = encoded(noise(), "JPEG", progressive=True)
    start = data.index(b"\xff\xda")
    with pytest.raises(ImageError, match="at most 100 scans, got"):
        decode(data[:-2] + data[start : start + 40] * 120 + data[-2:], 64, 64)


def test_mutated_files_are_taken_or_refused_by_name():
    rng = random.Random(15)
    small = noise(16, 16)
    palette = small.convert("P")
    files = [
        encoded(small),
        encoded(small, "JPEG"),
        encoded(small, "JPEG", progressive=True, exif=halves(2, 2, orientation=6).info["exif"]),
        encoded(palette, transparency=0),
        encoded(noise(16, 16, mode="RGBA")),
    ]
    taken = 0
    for _ in range(200):
        data = bytearray(rng.choice(files))
        for _ in range(rng.choice((1, 1, 2, 8))):
            at = rng.randrange(len(data))
            match rng.randrange(4):
                case 0:
                    data[at] ^= 1 << rng.randrange(8)
                case 1:
                    del data[at : at + rng.randrange(1, 20)]
                case 2:
                    data[at:at] = rng.randbytes(rng.randrange(1, 20))
                case _:
                    data[8:24] = rng.randbytes(16)  # where both kinds say what follows
        with suppress(ImageError):
            assert len(decode(bytes(data), 32, 32)) == 32 * 32 * 3
            taken += 1
    assert 0 < taken < 200


# ---- with the rest of the specification ----


def test_what_is_kept_of_an_image_is_its_digest():
    first, last = encoded(noise(seed=1)), encoded(noise(seed=2), "JPEG")
    resolved, made = check(spec(condition(last, 15), condition(first, 0, image_sha256="ff")))
    assert [(kept.frame_index, kept.image_sha256, kept.image) for kept in resolved.image_conditions] == [
        (0, hashlib.sha256(first).hexdigest(), b""),
        (15, hashlib.sha256(last).hexdigest(), b""),
    ]
    assert made == {0: decode(first, 64, 64), 15: decode(last, 64, 64)}
    # What is resolved stays so, as after a restart of the server.
    request = video_generation_service_pb2.CreateGenerationRequest(spec=resolved)
    assert check_create(request, model_limits(), memory_model())[0] == resolved


PNG = encoded(noise())
BOTH_ENDS = "model 'scripted' takes images for the first and the last frame alone"


@pytest.mark.parametrize(
    ("frames", "limits", "expected"),
    [
        ([0], {"image_frames": "none", "max_image_count": 0}, {"": "model 'scripted' takes no images, got 1"}),
        ([0, 1], {"image_frames": "none", "max_image_count": 0}, {"": "model 'scripted' takes no images, got 2"}),
        ([0, 15, 3], {}, {"": "model 'scripted' takes at most 2 images, got 3"}),
        ([], {"min_image_count": 1}, {"": "model 'scripted' needs at least 1 image, got 0"}),
        (
            [15],
            {"image_frames": "first", "max_image_count": 1},
            {"[0].frame_index": "must be 0, got 15: model 'scripted' takes images for the first frame alone"},
        ),
        (
            [0, 7],
            {},
            {"[1].frame_index": f"must be 0 or 15, got 7: {BOTH_ENDS}"},
        ),
        (
            [-1],
            {},
            {"[0].frame_index": f"must be 0 or 15, got -1: {BOTH_ENDS}"},
        ),
        (
            [15, 15],
            {},
            {"[1].frame_index": "must be a frame that has no image yet, got 15"},
        ),
        (
            [3, 16, -1, 3, 2**63 - 1],
            {"image_frames": "any", "max_image_count": 8},
            {
                "[1].frame_index": "must be in [0, 15], got 16",
                "[2].frame_index": "must be in [0, 15], got -1",
                "[3].frame_index": "must be a frame that has no image yet, got 3",
                "[4].frame_index": f"must be in [0, 15], got {2**63 - 1}",
            },
        ),
    ],
)
def test_frames_that_images_may_be_for(frames, limits, expected):
    wanted = spec(*(condition(PNG, frame) for frame in frames))
    assert violated(wanted, **limits) == {f"spec.image_conditions{path}": text for path, text in expected.items()}


def test_a_video_of_one_frame_has_one_place_for_an_image():
    assert len(check(spec(condition(PNG), frame_count=1))[0].image_conditions) == 1
    ((path, text),) = violated(spec(condition(PNG, 1), frame_count=1)).items()
    assert path == "spec.image_conditions[0].frame_index"
    assert text.startswith("must be 0, ")


def test_everything_wrong_comes_at_once():
    found = violated(spec(condition(PNG, 3), condition(b"GIF89a", 0), width=7, seed=-1))
    assert sorted(found) == [
        "spec.image_conditions[0].frame_index",
        "spec.image_conditions[1].image",
        "spec.seed",
        "spec.width",
    ]


@pytest.mark.parametrize("limits", [{"image_frames": "none", "max_image_count": 0}, {}])
def test_images_beyond_what_the_model_takes_are_not_looked_at(limits, monkeypatch):
    monkeypatch.setattr(images, "_take", lambda *_: pytest.fail("looked at"))
    wanted = spec(*(condition(b"", frame) for frame in range(3)))
    assert list(violated(wanted, **limits)) == ["spec.image_conditions"]


def test_all_files_together_are_bounded_below_the_message(monkeypatch):
    assert images.MAX_IMAGE_BYTES < MAX_REQUEST_BYTES
    monkeypatch.setattr(images, "MAX_IMAGE_BYTES", 2 * len(PNG) - 1)
    assert len(check(spec(condition(PNG)))[1]) == 1
    text = f"must have at most {2 * len(PNG) - 1} bytes in all files together, got {2 * len(PNG)}"
    assert violated(spec(condition(PNG), condition(PNG, 15))) == {"spec.image_conditions": text}


def test_calls_that_are_given_up_keep_their_places_until_their_turn_has_come(monkeypatch):
    begun, may_go = threading.Event(), threading.Event()
    decoded = []

    def held(data, width, height):
        begun.set()
        assert may_go.wait(10)
        decoded.append(data)
        return b""

    async def scenario():
        taker = ImageTaker()
        calls = [asyncio.create_task(taker.take(spec(condition(PNG)), model_limits())) for _ in range(16)]
        await asyncio.to_thread(begun.wait, 10)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        # What they have sent is still there, so nobody gets a place.
        for _ in range(2):
            with pytest.raises(QueueFullError):
                await taker.take(spec(condition(PNG)), model_limits())
        assert not decoded
        may_go.set()
        await until(lambda: taker._room._value == 16)
        assert len(decoded) == 16
        assert list((await taker.take(spec(condition(PNG)), model_limits())).pixels) == [0]

    monkeypatch.setattr(images, "decode", held)
    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_one_at_a_time_and_few_that_wait(monkeypatch):
    inside, overlaps = threading.Lock(), []
    large = encoded(noise(512, 512))

    def alone(data, width, height):
        is_alone = inside.acquire(blocking=False)
        overlaps.append(not is_alone)
        made = decode(data, width, height)
        if is_alone:
            inside.release()
        return made

    async def scenario():
        taker = ImageTaker()
        takes = [taker.take(spec(condition(large)), model_limits()) for _ in range(30)]
        done = await asyncio.gather(*takes, return_exceptions=True)
        refused = [error for error in done if isinstance(error, QueueFullError)]
        assert len(refused) == 30 - 16
        assert refused[0].retry_s > 0
        assert list((await taker.take(spec(condition(PNG)), model_limits())).pixels) == [0]

    monkeypatch.setattr(images, "decode", alone)
    asyncio.run(asyncio.wait_for(scenario(), 20))
    assert overlaps == [False] * 17
