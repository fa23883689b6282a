"""Contact sheet: frames of a video on one picture, the clips of the ranks marked.

Every thumbnail carries its frame number and, as a bar above it, the colour of the rank that owns the frame. Where one
clip ends and the next begins there is a line across the row, labelled with the rank that takes over. The first frame of
a prompt segment has a tick in its upper left corner: green where the text changes, white where a scene is cut.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from vinf_client._errors import OutputError
from vinf_client._frame import Picture, rgb_of
from vinf_client._replaceable import check_replaceable
from vinf_client._types import Clip, PromptSegment
from vinf_client.output import prepare_folder

MAX_THUMBNAILS = 192  # more would be too small to judge; they are spread evenly
_WIDEST = 2400  # pixels of the whole sheet
_NARROWEST = 96  # pixels of a thumbnail; a bar has room for "rank 0" and a frame number
_GAP = 6
_BAR = 14
_BACKGROUND = (24, 24, 27)
_TEXT = (235, 235, 235)
_LINE = (255, 64, 64)
_TICK = 10  # pixels of its sides
_SEGMENT = (64, 255, 96)
_CUT = (255, 255, 255)
_COLOURS = (
    (86, 156, 214), (229, 170, 66), (106, 190, 120), (197, 120, 200),
    (220, 110, 95), (90, 200, 200), (160, 160, 90), (150, 150, 220),
)  # fmt: skip


class ContactSheet:
    """Collects thumbnails frame by frame and draws them at the end; memory is bounded by `MAX_THUMBNAILS`.

    Args:
        frame_count: frames of the video.
        clips: the ranks' clips in order; may be empty.
        segments: later stretches of the timeline, in order; may be empty.
        columns: thumbnails in a row; chosen from their number when None.
    """

    def __init__(
        self,
        frame_count: int,
        clips: Sequence[Clip] = (),
        segments: Sequence[PromptSegment] = (),
        *,
        columns: int | None = None,
    ) -> None:
        self._clips = [clip for clip in clips if clip.frame_count > 0]
        self._ranks = [rank for rank, clip in enumerate(clips) if clip.frame_count > 0]
        self._ticks = {segment.start_frame: _CUT if segment.cut else _SEGMENT for segment in segments}
        self._wanted = set(choose_frames(frame_count, self._clips, sorted(self._ticks)))
        self._columns = max(1, columns or _columns(len(self._wanted)))
        self._thumbnails: list[tuple[int, PillowImage.Image]] = []

    def add(self, index: int, frame: Picture) -> None:
        """Take frame `index`, or its pixels, uint8 ``[H, W, 3]``; keep a thumbnail when it is among the chosen ones."""
        if index not in self._wanted:
            return
        widest = max(16, _WIDEST // self._columns - _GAP)
        picture = PillowImage.fromarray(np.ascontiguousarray(rgb_of(frame)))
        width = min(widest, picture.width * -(-_NARROWEST // picture.width))  # small ones grow by a whole factor
        if picture.width != width:
            height = max(1, round(picture.height * width / picture.width))
            picture = picture.resize((width, height), PillowImage.Resampling.LANCZOS)
        self._thumbnails.append((index, picture))

    def draw(self) -> PillowImage.Image:
        """Return the sheet."""
        width = max((picture.width for _, picture in self._thumbnails), default=16)
        height = max((picture.height for _, picture in self._thumbnails), default=16)
        cell = (width + _GAP, height + _BAR + _GAP)
        rows = -(-max(1, len(self._thumbnails)) // self._columns)
        columns = min(self._columns, max(1, len(self._thumbnails)))
        sheet = PillowImage.new("RGB", (columns * cell[0] + _GAP, rows * cell[1] + _GAP), _BACKGROUND)
        pen = ImageDraw.Draw(sheet)
        previous: int | None = None
        for place, (index, picture) in enumerate(self._thumbnails):
            left = _GAP + place % self._columns * cell[0]
            top = _GAP + place // self._columns * cell[1]
            rank = self._rank_of(index)
            sheet.paste(picture, (left, top + _BAR))
            if index in self._ticks:
                _draw_tick(pen, (left, top + _BAR), self._ticks[index])
            _draw_bar(pen, (left, top, left + cell[0] - _GAP, top + _BAR), index, rank, starts=rank != previous)
            if rank is not None and previous is not None and rank != previous:
                x = left - _GAP // 2
                pen.line((x, top - _GAP // 2, x, top + cell[1] - _GAP // 2), fill=_LINE, width=3)
                if place % self._columns == 0:  # the margin alone is easy to miss
                    y = top - _GAP // 2
                    pen.line((0, y, sheet.width, y), fill=_LINE, width=3)
            previous = rank
        return sheet

    def save(self, path: Path) -> None:
        """Write the sheet as PNG.

        Raises:
            OutputError: it cannot be written there.
        """
        partial = path.with_name(f".{path.name}.partial")
        try:
            self.draw().save(partial, format="PNG")
            partial.replace(path)
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error
        finally:
            partial.unlink(missing_ok=True)

    def _rank_of(self, index: int) -> int | None:
        for rank, clip in zip(self._ranks, self._clips, strict=True):
            if clip.start_frame_index <= index < clip.start_frame_index + clip.frame_count:
                return rank
        return None


def choose_frames(frame_count: int, clips: Sequence[Clip], starts: Sequence[int] = ()) -> list[int]:
    """Return the frames a sheet shows: all, or an even spread that keeps both sides of every boundary and `starts`."""
    if frame_count <= MAX_THUMBNAILS:
        return list(range(frame_count))
    edges = {clip.start_frame_index for clip in clips} | {clip.start_frame_index - 1 for clip in clips[1:]}
    edges |= set(starts)
    edges = {index for index in edges if 0 <= index < frame_count}
    spread = max(2, MAX_THUMBNAILS - len(edges))
    even = {round(place * (frame_count - 1) / (spread - 1)) for place in range(spread)}
    return sorted(even | edges)


def check_sheet(text: str) -> Path:
    """Return where the sheet goes.

    Raises:
        OutputError: not a PNG file, or a folder that cannot be written.
    """
    path = Path(text)
    if path.suffix.lower() != ".png" or path.is_dir():
        raise OutputError(f"{text!r} is not a contact sheet; allowed: a name that ends in .png")
    check_replaceable(path)
    prepare_folder(path)
    return path


def _columns(count: int) -> int:
    return next((columns for columns in (8, 12, 16) if count <= columns * columns), 16)


def _draw_tick(pen: ImageDraw.ImageDraw, corner: tuple[int, int], colour: tuple[int, int, int]) -> None:
    x, y = corner
    pen.polygon([(x, y), (x + _TICK, y), (x, y + _TICK)], fill=colour, outline=(0, 0, 0))


def _draw_bar(
    pen: ImageDraw.ImageDraw, box: tuple[int, int, int, int], index: int, rank: int | None, *, starts: bool
) -> None:
    font = ImageFont.load_default(10)
    if rank is None:
        pen.text((box[0] + 2, box[1] + 1), str(index), fill=_TEXT, font=font)
        return
    pen.rectangle(box, fill=_COLOURS[rank % len(_COLOURS)])
    name = f"rank {rank}" if starts else ""
    room = box[2] - box[0] - pen.textlength(str(index), font=font) - 6
    if name and pen.textlength(name, font=font) > room:
        name = f"r{rank}"
    pen.text((box[0] + 2, box[1] + 1), name, fill=(0, 0, 0), font=font)
    pen.text((box[2] - 2, box[1] + 1), str(index), fill=(0, 0, 0), font=font, anchor="ra")
