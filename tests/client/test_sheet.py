"""A contact sheet shows the frames and where one rank's clip ends."""

import numpy as np
import pytest
from PIL import Image

from vinf_client import Clip, OutputError, PromptSegment
from vinf_client.sheet import _CUT, _LINE, _SEGMENT, MAX_THUMBNAILS, ContactSheet, check_sheet, choose_frames

pytestmark = pytest.mark.fast


def sheet_of(count, clips, segments=(), *, size=(40, 30), columns=None):
    sheet = ContactSheet(count, clips, segments, columns=columns)
    for index in range(count):
        sheet.add(index, np.full((size[1], size[0], 3), 100, np.uint8))
    return sheet


def line_columns(picture):
    pixels = np.asarray(picture)
    return np.flatnonzero((pixels == _LINE).all(axis=-1).sum(axis=0) > 20)


def test_the_boundary_is_marked():
    picture = sheet_of(8, [Clip(0, 4), Clip(4, 4)], columns=8).draw()
    cell = 120 + 6  # three times as large: the frames are small
    assert picture.size == (8 * cell + 6, 90 + 14 + 6 + 6)
    columns = line_columns(picture)
    assert len(columns) == 3
    assert abs(columns.mean() - (4 * cell + 3)) <= 1
    bars = np.asarray(picture)[8, [12, 4 * cell + 12]]
    assert not np.array_equal(bars[0], bars[1])


def test_a_boundary_between_rows_is_marked_across():
    pixels = np.asarray(sheet_of(8, [Clip(0, 4), Clip(4, 4)], columns=4).draw())
    rows = np.flatnonzero((pixels == _LINE).all(axis=(1, 2)))
    assert len(rows) == 3


def test_without_boundaries_there_is_no_line():
    assert len(line_columns(sheet_of(8, [Clip(0, 8)]).draw())) == 0
    assert len(line_columns(sheet_of(8, []).draw())) == 0


def test_empty_clips_are_nobodys():
    picture = sheet_of(2, [Clip(0, 1), Clip(1, 0), Clip(1, 1)], columns=2).draw()
    assert len(line_columns(picture)) == 3


def test_starts_of_segments_have_a_tick():
    segments = [PromptSegment(2, "a star", transition_frames=3), PromptSegment(5, "a box", cut=True)]
    pixels = np.asarray(sheet_of(8, [Clip(0, 8)], segments, columns=8).draw())
    cell = 120 + 6
    for colour, frame in ((_SEGMENT, 2), (_CUT, 5)):
        rows, columns = np.nonzero((pixels == colour).all(axis=-1))
        assert len(rows) > 10
        corner = (6 + frame * cell, 6 + 14)
        assert corner[0] <= columns.min() <= columns.max() <= corner[0] + 10
        assert corner[1] <= rows.min() <= rows.max() <= corner[1] + 10
    plain = np.asarray(sheet_of(8, [Clip(0, 8)], columns=8).draw())
    assert not (plain == _SEGMENT).all(axis=-1).any()


def test_a_segment_outside_the_video_has_no_tick():
    pixels = np.asarray(sheet_of(4, [], [PromptSegment(9, "a star")]).draw())
    assert not (pixels == _SEGMENT).all(axis=-1).any()


def test_large_frames_are_made_smaller():
    assert sheet_of(4, [], size=(3000, 400), columns=4).draw().width <= 2400 + 6


def test_long_videos_are_sampled_evenly_with_both_sides_of_every_boundary():
    chosen = choose_frames(10_000, [Clip(0, 5001), Clip(5001, 4999)])
    assert len(chosen) <= MAX_THUMBNAILS
    assert {0, 5000, 5001, 9999} <= set(chosen)
    assert max(np.diff(chosen)) < 60
    assert choose_frames(96, []) == list(range(96))
    assert {3333, 7001} <= set(choose_frames(10_000, [], [3333, 7001]))


def test_save_and_check(tmp_path):
    path = check_sheet(str(tmp_path / "new" / "sheet.png"))
    sheet_of(3, [Clip(0, 3)]).save(path)
    with Image.open(path) as picture:
        assert picture.format == "PNG"
    assert [entry.name for entry in path.parent.iterdir()] == ["sheet.png"]
    with pytest.raises(OutputError, match=r"ends in .png"):
        check_sheet("sheet.jpg")
