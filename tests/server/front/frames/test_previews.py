"""Previews as the front keeps and compresses them."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from vinf.v1.video_generation_service_pb2 import Preview
from vinf_server.front.frames.previews import LIMIT_BYTES, PreviewBoard, make_preview

pytestmark = pytest.mark.fast


def preview(frame_index, step=1, size=100):
    return Preview(frame_index=frame_index, completed_step_count=step, jpeg_data=bytes(size))


def shown(board, version=0):
    return [(preview.frame_index, preview.completed_step_count) for preview in board.since(version)]


def test_the_newest_of_each_frame_is_kept():
    board = PreviewBoard()
    board.put([preview(5, 1), preview(2, 1)])
    seen = board.version
    assert shown(board) == [(2, 1), (5, 1)]
    assert shown(board, seen) == []
    board.put([preview(5, 2), preview(9, 2)])
    assert shown(board) == [(2, 1), (5, 2), (9, 2)]
    assert shown(board, seen) == [(5, 2), (9, 2)]
    board.clear()
    assert shown(board) == []


def test_what_came_first_makes_room():
    board = PreviewBoard()
    for frame in range(4):
        board.put([preview(frame, size=LIMIT_BYTES // 4)])
    board.put([preview(0, 2, size=LIMIT_BYTES // 4)])
    assert shown(board) == [(0, 2), (1, 1), (2, 1), (3, 1)], "a newer one takes the room of its own frame"
    board.put([preview(7, size=LIMIT_BYTES // 4 + 1)])
    assert shown(board) == [(0, 2), (3, 1), (7, 1)]
    board.put([preview(8, size=LIMIT_BYTES + 1)])
    assert shown(board) == []
    board.put([preview(1, size=LIMIT_BYTES)])
    assert shown(board) == [(1, 1)]


@pytest.mark.parametrize(
    ("size", "expected"),
    [((8, 8), (64, 64)), ((16, 8), (64, 32)), ((24, 24), (72, 72)), ((64, 40), (64, 40)), ((100, 60), (100, 60))],
)
def test_narrow_pictures_are_enlarged_smoothly(size, expected):
    width, height = size
    ramp = np.zeros((height, width, 3), np.uint8)
    ramp[..., 0] = np.linspace(0, 250, width)
    made = make_preview(ramp.tobytes(), width, height, frame_index=7, completed_steps=2)
    assert (made.frame_index, made.completed_step_count, made.width, made.height) == (7, 2, *expected)
    picture = Image.open(io.BytesIO(made.jpeg_data))
    assert (picture.format, picture.size) == ("JPEG", expected)
    row = np.asarray(picture)[expected[1] // 2, :, 0].astype(int)
    wanted = np.interp((np.arange(expected[0]) + 0.5) * width / expected[0] - 0.5, range(width), ramp[0, :, 0])
    assert abs(row - wanted).max() < 16
    assert abs(np.diff(row)).max() < 250 / (width - 1) + 8, "no steps where the picture has none"
