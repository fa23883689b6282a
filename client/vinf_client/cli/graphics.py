"""Pictures as text that a terminal shows: coloured half-blocks, kitty graphics, or sixels.

Each way starts at the cursor, takes the cells it is given and may leave the cursor anywhere.
"""

import base64
import io
import re
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow
from rich.color import Color
from rich.console import Console
from rich.segment import Segment, Segments
from rich.style import Style

_KITTY_ID = 7811
_KITTY_CHUNK = 4096  # bytes of base64 a command may carry
_SIXEL_COLOURS = 64
_SIXEL_ROWS = 6  # rows of pixels in one band
_RUN = re.compile(r"(.)\1{3,}")


@dataclass(frozen=True, slots=True)
class Cells:
    """Room on the screen, and the size of one cell in pixels."""

    columns: int
    rows: int
    width: int = 10
    height: int = 20

    def fitting(self, picture: Pillow.Image) -> "Cells":
        """Return the cells that a picture takes in this room without losing its shape."""
        scale = min(self.columns * self.width / picture.width, self.rows * self.height / picture.height)
        columns = round(picture.width * scale / self.width)
        rows = round(picture.height * scale / self.height)
        return Cells(min(max(1, columns), self.columns), min(max(1, rows), self.rows), self.width, self.height)


class Graphics(Protocol):
    """One way to draw."""

    def draw(self, picture: Pillow.Image, cells: Cells) -> str:
        """Return the text that draws an RGB picture over all of `cells`."""

    def clear(self) -> str:
        """Return the text that takes away what erasing the cells leaves."""


class Blocks:
    """Two pixels a cell: the upper half in the colour of the text, the lower one in that of its background.

    Args:
        console: knows how many colours the terminal has.
    """

    def __init__(self, console: Console) -> None:
        self._console = console

    def draw(self, picture: Pillow.Image, cells: Cells) -> str:
        pixels = np.asarray(_scaled(picture, cells.columns, 2 * cells.rows))
        segments = []
        for upper, lower in zip(pixels[::2].tolist(), pixels[1::2].tolist(), strict=True):
            for above, below in zip(upper, lower, strict=True):
                segments.append(Segment("▀", Style(color=Color.from_rgb(*above), bgcolor=Color.from_rgb(*below))))
            segments.append(Segment.line())
        with self._console.capture() as capture:
            self._console.print(Segments(segments[:-1]), end="", soft_wrap=True)
        return capture.get().replace("\n", "\r\n")

    def clear(self) -> str:
        return ""


class Kitty:
    """The graphics protocol of kitty, which others speak, too; the terminal scales."""

    def draw(self, picture: Pillow.Image, cells: Cells) -> str:
        file = io.BytesIO()
        picture.save(file, "PNG", compress_level=1)
        data = base64.standard_b64encode(file.getvalue()).decode()
        chunks = [data[start : start + _KITTY_CHUNK] for start in range(0, len(data), _KITTY_CHUNK)]
        # The same id and placement every time: the new picture takes the place of the last one.
        control = f"a=T,f=100,i={_KITTY_ID},p=1,C=1,q=2,c={cells.columns},r={cells.rows}"
        parts = []
        for index, chunk in enumerate(chunks):
            more = f"m={int(index < len(chunks) - 1)}"
            parts.append(f"\x1b_G{f'{control},{more}' if index == 0 else more};{chunk}\x1b\\")
        return "".join(parts)

    def clear(self) -> str:
        return f"\x1b_Ga=d,d=I,i={_KITTY_ID},q=2\x1b\\"


class Sixel:
    """Sixels, as DEC's terminals drew them and many of today's do.

    Written here because what pip offers binds a C library that would have to be installed besides; the format is one
    page.
    """

    def draw(self, picture: Pillow.Image, cells: Cells) -> str:
        scaled = _scaled(picture, cells.columns * cells.width, cells.rows * cells.height)
        indexed = scaled.quantize(_SIXEL_COLOURS, dither=Pillow.Dither.NONE)
        palette = np.asarray(indexed.getpalette()).reshape(-1, 3)
        pixels = np.asarray(indexed)
        used = np.unique(pixels)
        # P2 = 1: what a band leaves out keeps its colour, so that the colours of a band add up.
        parts = [f'\x1bP0;1;0q"1;1;{scaled.width};{scaled.height}']
        for colour in used.tolist():
            red, green, blue = (round(int(value) * 100 / 255) for value in palette[colour])
            parts.append(f"#{colour};2;{red};{green};{blue}")
        for top in range(0, scaled.height, _SIXEL_ROWS):
            parts.append(_band(pixels[top : top + _SIXEL_ROWS]))
        parts.append("\x1b\\")
        return "".join(parts)

    def clear(self) -> str:
        return ""


def _band(rows: npt.NDArray[np.uint8]) -> str:
    """Write up to six rows of pixels, one colour after the other."""
    colours, indices = np.unique(rows, return_inverse=True)
    bits = np.zeros((len(colours), rows.shape[1]), np.uint8)
    columns = np.arange(rows.shape[1])
    for row, of_row in enumerate(indices.reshape(rows.shape)):
        bits[of_row, columns] |= 1 << row
    lines = (bits + ord("?")).tobytes().decode()
    width = rows.shape[1]
    parts = (
        f"#{colour}{_RUN.sub(_short, lines[index * width : (index + 1) * width])}"
        for index, colour in enumerate(colours.tolist())
    )
    return "$".join(parts) + "-"


def _short(run: re.Match[str]) -> str:
    return f"!{len(run[0])}{run[1]}"


def _scaled(picture: Pillow.Image, width: int, height: int) -> Pillow.Image:
    method = Pillow.Resampling.BOX if width < picture.width else Pillow.Resampling.BICUBIC
    return picture.convert("RGB").resize((width, height), method)
