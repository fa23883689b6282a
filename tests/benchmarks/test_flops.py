"""The closed form against torch's own count, and against the published size of VideoCrafter2."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.flops import frame_forward_flops, mean_keys, total_flops
from benchmarks.models import latent_size, outline, text_tokens_of
from benchmarks.settings import Settings
from benchmarks.sites import Kind
from tests.support.tiny import TEXT_DIM, tiny_unet

pytestmark = pytest.mark.fast


def counted(unet: torch.nn.Module, *, height: int, width: int, frames: int, text_tokens: int, texts: int = 2) -> float:
    """FLOP of a frame-forward as torch counts them on the meta device."""
    unet = unet.to("meta")
    counter = FlopCounterMode(display=False)
    with torch.device("meta"), counter, torch.inference_mode():
        unet(
            torch.empty(texts, 4, frames, height, width),
            torch.tensor(5),
            torch.empty(texts, text_tokens, unet.config.cross_attention_dim),
        )
    return counter.get_total_flops() / (frames * texts)


@pytest.mark.parametrize(("height", "width", "frames"), [(8, 8, 1), (8, 16, 5), (10, 6, 9)])
def test_closed_form_equals_torchs_count_on_the_tiny_model(height: int, width: int, frames: int) -> None:
    unet = tiny_unet(torch.float32)
    assert unet.config.cross_attention_dim == TEXT_DIM
    shape = {"height": height, "width": width, "frames": frames, "text_tokens": 5}
    assert total_flops(frame_forward_flops(unet, keys=frames, **shape)) == pytest.approx(counted(unet, **shape), 1e-6)


@pytest.mark.parametrize("model", ["sprites", "mid"])
def test_closed_form_equals_torchs_count(model: str) -> None:
    settings = Settings(model=model)
    height, width = latent_size(settings)
    shape = {"height": height, "width": width, "frames": 12, "text_tokens": text_tokens_of(settings)}
    unet = outline(settings)
    assert total_flops(frame_forward_flops(unet, keys=12, **shape)) == pytest.approx(counted(unet, **shape), 1e-6)


def test_mid_is_mid_sized() -> None:
    assert 50e6 <= sum(p.numel() for p in outline(Settings(model="mid")).parameters()) < 100e6


def test_videocrafter2_has_its_known_size_and_cost() -> None:
    settings = Settings(model="videocrafter2")
    unet = outline(settings)
    # 1,413,284,420 with the frame-rate embedding's 2,050,560.
    assert sum(p.numel() for p in unet.parameters()) == 1_411_233_860
    height, width = latent_size(settings)
    assert (height, width) == (40, 64)
    parts = {
        frames: frame_forward_flops(unet, height=height, width=width, frames=frames, keys=frames, text_tokens=77)
        for frames in (16, 24, 48)
    }
    totals = [round(total_flops(found) / 1e9, 1) for found in parts.values()]
    assert totals == [786.3, 786.9, 788.5]
    assert parts[24][Kind.TEMPORAL_CONVOLUTION] / 1e9 == pytest.approx(105.4, abs=0.1)
    assert parts[24][Kind.TEMPORAL_ATTENTION] / 1e9 == pytest.approx(177.3, abs=0.1)
    assert parts[24][Kind.TRANSFORMER_IN] / 1e9 == pytest.approx(28.8, abs=0.1)


def test_keys_of_the_dual_scope_by_hand() -> None:
    # Five frames, one neighbour to each side, the middle frame (2) for all: 3, 3, 3, 3 and 3 keys.
    assert mean_keys(5, local_window_frames=2, global_frames=1) == 3.0
    assert mean_keys(7, local_window_frames=14, global_frames=0) == 7.0
    assert mean_keys(3, local_window_frames=0, global_frames=0) == 1.0
