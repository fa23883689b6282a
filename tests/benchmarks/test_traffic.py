"""Bytes from shapes: the published scheme's known figure, and what does and does not grow."""

from __future__ import annotations

import pytest

from benchmarks.communication import planned_step_bytes
from benchmarks.models import latent_size, outline
from benchmarks.settings import Settings
from benchmarks.traffic import FrameBytes, published_step_bytes, weigh_frame

pytestmark = pytest.mark.fast

SETTINGS = Settings(model="videocrafter2", ranks=8, dtype="float16")


@pytest.fixture(scope="module")
def frame() -> FrameBytes:
    height, width = latent_size(SETTINGS)
    return weigh_frame(outline(SETTINGS), height=height, width=width, texts=2, item_bytes=2)


def test_the_modules_are_counted(frame: FrameBytes) -> None:
    assert (frame.attentions, frame.convolutions, frame.transformers) == (34, 22, 17)


def test_published_scheme_receives_its_known_bytes(frame: FrameBytes) -> None:
    published = published_step_bytes(frame, ranks=8)
    assert published.attention_halo / 1e9 == pytest.approx(2.18, abs=0.005)
    assert published.attention_global / 1e9 == pytest.approx(1.91, abs=0.005)
    assert published.convolution / 1e9 == pytest.approx(0.24, abs=0.005)
    assert published.total / 1e9 == pytest.approx(4.34, abs=0.01)


def test_the_engine_receives_about_half_whatever_the_length(frame: FrameBytes) -> None:
    totals = [sum(planned_step_bytes(SETTINGS, frame, frames=frames, ranks=8)) for frames in (768, 2304, 9216)]
    assert len(set(totals)) == 1
    assert totals[0] < 0.55 * published_step_bytes(frame, ranks=8).total
