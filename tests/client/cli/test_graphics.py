"""Pictures as text: read back, they are the pictures."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from vinf_client.cli.graphics import Blocks, Cells, Kitty, Sixel

pytestmark = pytest.mark.fast


def colour_bars(width=12, height=8):
    """Four colours in four corners."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = (255, 0, 0)
    pixels[: height // 2, width // 2 :] = (0, 255, 0)
    pixels[height // 2 :, : width // 2] = (0, 0, 255)
    pixels[height // 2 :, width // 2 :] = (255, 255, 0)
    return pixels


def console(**options):
    return Console(file=io.StringIO(), force_terminal=True, width=100, **options)


def test_blocks_carry_two_pixels_a_cell():
    pixels = colour_bars(6, 8)
    text = Blocks(console(color_system="truecolor")).draw(Image.fromarray(pixels), Cells(6, 4))
    rows = []
    for line in text.split("\r\n"):
        cells = re.findall(r"\x1b\[38;2;(\d+);(\d+);(\d+);48;2;(\d+);(\d+);(\d+)m(▀+)", line)
        upper = [tuple(map(int, cell[:3])) for cell in cells for _ in cell[6]]
        lower = [tuple(map(int, cell[3:6])) for cell in cells for _ in cell[6]]
        rows += [upper, lower]
    np.testing.assert_array_equal(np.array(rows, np.uint8), pixels)


def test_blocks_make_do_with_256_colours():
    text = Blocks(console(color_system="256")).draw(Image.fromarray(colour_bars(6, 8)), Cells(6, 4))
    assert "38;5;196" in text
    assert "38;2" not in text


def test_kitty_gets_the_picture_in_chunks_it_may_take():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    text = Kitty().draw(Image.fromarray(noise), Cells(20, 10))
    commands = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", text)
    assert "".join(f"\x1b_G{control};{data}\x1b\\" for control, data in commands) == text
    assert len(commands) > 1
    assert all(len(data) <= 4096 and len(data) % 4 == 0 for _, data in commands)
    controls = [dict(pair.split("=") for pair in control.split(",")) for control, _ in commands]
    assert [control["m"] for control in controls] == ["1"] * (len(commands) - 1) + ["0"]
    assert (controls[0]["a"], controls[0]["f"], controls[0]["c"], controls[0]["r"]) == ("T", "100", "20", "10")
    assert controls[0]["C"] == "1", "the cursor stays"
    assert controls[0]["q"] == "2", "the terminal answers nothing"
    file = io.BytesIO(base64.standard_b64decode("".join(data for _, data in commands)))
    np.testing.assert_array_equal(np.asarray(Image.open(file)), noise)
    assert f"i={controls[0]['i']}" in Kitty().clear()


def read_sixels(text):
    """A terminal's side: the pixels of a sixel sequence."""
    head = re.match(r'\x1bP0;1;0q"1;1;(\d+);(\d+)', text)
    width, height = int(head[1]), int(head[2])
    pixels = np.full((height + 6, width, 3), 255, np.uint8)
    palette, colour, x, y = {}, 0, 0, 0
    tokens = re.compile(r"#(\d+);2;(\d+);(\d+);(\d+)|#(\d+)|!(\d+)([?-~])|([?-~])|(\$)|(-)")
    position, end = head.end(), text.index("\x1b\\", head.end())
    while position < end:
        token = tokens.match(text, position)
        assert token, text[position : position + 20]
        position = token.end()
        if token[1]:
            palette[int(token[1])] = [round(int(token[part]) * 255 / 100) for part in (2, 3, 4)]
        elif token[5]:
            colour = int(token[5])
        elif token[9]:
            x = 0
        elif token[10]:
            x, y = 0, y + 6
        else:
            count, bits = int(token[6] or 1), ord(token[7] or token[8]) - 63
            for bit in range(6):
                if bits >> bit & 1:
                    pixels[y + bit, x : x + count] = palette[colour]
            x += count
    return pixels[:height]


@pytest.mark.parametrize("height", [8, 12, 13], ids=["less than two bands", "two bands", "one row more"])
def test_sixels_are_the_picture(height):
    pixels = colour_bars(12, height)
    drawn = read_sixels(Sixel().draw(Image.fromarray(pixels), Cells(12, height, width=1, height=1)))
    np.testing.assert_array_equal(drawn, pixels)


def test_sixels_of_many_colours_are_close():
    ramp = np.stack(np.meshgrid(np.arange(64) * 4, np.arange(48) * 5), -1)
    pixels = np.concatenate([ramp, np.full((48, 64, 1), 128)], -1).astype(np.uint8)
    drawn = read_sixels(Sixel().draw(Image.fromarray(pixels), Cells(64, 48, width=1, height=1)))
    assert np.abs(drawn.astype(int) - pixels).mean() < 12


@pytest.mark.parametrize(
    ("picture", "room", "cells"),
    [
        ((64, 64), Cells(80, 16, 10, 20), (32, 16)),
        ((512, 64), Cells(80, 16, 10, 20), (80, 5)),
        ((64, 512), Cells(80, 16, 8, 16), (4, 16)),
        ((1000, 1), Cells(80, 16, 10, 20), (80, 1)),
    ],
    ids=["square", "wide", "tall", "a line"],
)
def test_pictures_keep_their_shape(picture, room, cells):
    fitting = room.fitting(Image.new("RGB", picture))
    assert (fitting.columns, fitting.rows) == cells
