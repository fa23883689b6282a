"""Image conditions of a specification."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.support.engine import spec
from tests.support.tiny import tiny_limits
from vinf_core.engine.limits import check_spec
from vinf_core.errors import InvalidSpecError
from vinf_core.models.images import pixels_of
from vinf_core.types import ImageCondition, ImageFrames, ModelLimits

pytestmark = pytest.mark.fast

SIZE = 32 * 32 * 3


def test_pixels_become_a_tensor_of_the_models_own() -> None:
    what = spec(images=(ImageCondition(0, bytes(SIZE)), ImageCondition(10, bytes(range(256)) * 12)))
    tensor = pixels_of(what.images[1], what)
    assert (tensor.shape, tensor.dtype) == ((32, 32, 3), torch.uint8)
    assert tensor.flatten()[:256].tolist() == list(range(256))
    tensor += 1
    assert what.images[1].pixels[0] == 0


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ([(-1, SIZE)], r"images\[0\]: frame -1 is not in \[0, 10\]"),
        ([(11, SIZE)], r"images\[0\]: frame 11 is not in \[0, 10\]"),
        ([(3, SIZE), (3, SIZE)], r"images\[1\]: frame 3 is not in \[4, 10\]"),
        ([(10, SIZE), (0, SIZE)], r"images\[1\]: frame 0 is not in \[11, 10\]"),
        ([(0, SIZE - 1)], r"images\[0\]: 3071 bytes are not the 3072 of a frame"),
    ],
)
def test_images_out_of_order_or_size(images: list[tuple[int, int]], words: str) -> None:
    with pytest.raises(InvalidSpecError, match=words):
        spec(images=tuple(ImageCondition(frame, bytes(size)) for frame, size in images))


def taking(frames: ImageFrames, most: int) -> ModelLimits:
    return replace(tiny_limits(), image_frames=frames, max_images=most)


@pytest.mark.parametrize(
    ("frames", "most", "wanted", "words"),
    [
        (ImageFrames.NONE, 0, [0], r"images: a count of 1 is not in \[0, 0\]"),
        (ImageFrames.ANY, 1, [0, 4], r"images: a count of 2 is not in \[0, 1\]"),
        (ImageFrames.FIRST, 1, [3], r"images\[0\]: frame 3 is not in \[0\]"),
        (ImageFrames.FIRST_AND_LAST, 2, [0, 9], r"images\[1\]: frame 9 is not in \[0, 10\]"),
        (
            ImageFrames.FIRST,
            1,
            [0, 3],
            r"images: a count of 2 is not in \[0, 1\]; images\[1\]: frame 3 is not in \[0\]",
        ),
    ],
)
def test_images_that_a_model_does_not_take(frames: ImageFrames, most: int, wanted: list[int], words: str) -> None:
    with pytest.raises(InvalidSpecError, match=words):
        check_spec(spec(images=tuple(ImageCondition(frame, bytes(SIZE)) for frame in wanted)), taking(frames, most))


@pytest.mark.parametrize(
    ("frames", "most", "wanted"),
    [
        (ImageFrames.NONE, 0, []),
        (ImageFrames.FIRST, 1, [0]),
        (ImageFrames.FIRST_AND_LAST, 2, [0, 10]),
        (ImageFrames.ANY, 3, [1, 5, 10]),
    ],
)
def test_images_that_a_model_takes(frames: ImageFrames, most: int, wanted: list[int]) -> None:
    check_spec(spec(images=tuple(ImageCondition(frame, bytes(SIZE)) for frame in wanted)), taking(frames, most))


def test_a_model_that_cannot_do_without_an_image() -> None:
    with pytest.raises(InvalidSpecError, match=r"images: a count of 0 is not in \[1, 1\]"):
        check_spec(spec(), replace(taking(ImageFrames.FIRST, 1), min_images=1))
    with pytest.raises(ValueError, match=r"min_images: 2 is not in \[0, 1\]"):
        replace(taking(ImageFrames.FIRST, 1), min_images=2)


@pytest.mark.parametrize(("frames", "most"), [(ImageFrames.NONE, 1), (ImageFrames.FIRST, 0)])
def test_a_model_says_which_frames_and_how_many(frames: ImageFrames, most: int) -> None:
    limits = tiny_limits()
    values = {name: getattr(limits, name) for name in ModelLimits.__slots__}
    with pytest.raises(ValueError, match=f"max_images: {most} does not go with image_frames {frames.value}"):
        ModelLimits(**(values | {"image_frames": frames, "max_images": most}))
