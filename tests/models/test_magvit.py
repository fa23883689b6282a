"""Magvit in chunks: exact through every hand-over, nearly so with a warm-up; sparse videos encoded at bounded cost."""

from __future__ import annotations

import itertools

import pytest
import torch
from diffusers import AutoencoderKLMagvit
from diffusers.models.autoencoders.autoencoder_kl_magvit import EasyAnimateCausalConv3d, EasyAnimateEncoder

from tests.support.easyanimate import LATENT_CHANNELS, tiny_vae
from vinf_core.latent_frames import FrameGrid
from vinf_core.models.magvit import (
    CHUNK_LATENTS,
    PARALLEL_CHUNK_LATENTS,
    WARM_UP_LATENTS,
    MagvitDecoder,
    causal_state,
    decoder_memory,
    state_of,
)
from vinf_core.models.magvit_encode import BLANK, encode_sparse
from vinf_core.models.temporal_decoder import HandOver

pytestmark = pytest.mark.fast

GRID = FrameGrid(4)
SIZE = 16


@pytest.fixture(scope="module")
def vae() -> AutoencoderKLMagvit:
    return tiny_vae()


def noise(count: int, side: int = 2) -> torch.Tensor:
    return torch.randn(count, LATENT_CHANNELS, side, side, generator=torch.Generator().manual_seed(7))


def stock_decode(vae: AutoencoderKLMagvit, latents: torch.Tensor) -> torch.Tensor:
    """Pictures as the stock pipeline makes them, ``[F, H, W, 3]``, not clamped."""
    with torch.inference_mode():
        video = vae.decode((1 / vae.config.scaling_factor * latents).transpose(0, 1)[None]).sample
    return video[0].permute(1, 2, 3, 0) * 0.5 + 0.5


def in_chunks(decoder: MagvitDecoder, latents: torch.Tensor, cuts: list[int] | None = None) -> torch.Tensor:
    """Decoded chunk by chunk as the engine does; ``cuts`` other than the decoder's own."""
    grid, count = decoder.grid, len(latents)
    starts = cuts or list(range(0, count, grid.latents))
    made, carried = [], None
    for start, stop in zip(starts, [*starts[1:], count], strict=True):
        chunk, seen = range(start, stop), range(max(0, start - grid.before), stop)
        given = latents[seen.start : seen.stop]
        pictures, left = decoder.decode_chunk(given, chunk=chunk, seen=seen, carried=carried)
        carried = left if grid.hand_over is HandOver.STATE else None
        assert pictures.shape[0] == len(GRID.frames_of(chunk))
        made.append(pictures)
    return torch.cat(made)


@pytest.mark.parametrize("count", [1, 4, 60])
def test_exact_chunks_equal_the_stock_decoder_at_any_length(vae, count: int) -> None:
    decoder = MagvitDecoder(vae)
    assert decoder.grid.hand_over is HandOver.STATE
    assert decoder.grid.latents == CHUNK_LATENTS
    torch.testing.assert_close(in_chunks(decoder, noise(count)), stock_decode(vae, noise(count)), rtol=1e-4, atol=2e-5)


def test_exact_wherever_it_is_cut_to_the_bit(vae) -> None:
    decoder, latents = MagvitDecoder(vae), noise(9)
    whole = in_chunks(decoder, latents, [0])
    for cuts in ([0, 1], [0, 2, 3], [0, 4, 8], list(range(9))):
        assert torch.equal(in_chunks(decoder, latents, cuts), whole), cuts


def test_as_many_latents_as_it_remembers_bring_about_the_same_state() -> None:
    """From nothing, ``memory`` latent frames before a chunk; and not from one fewer, so the number is no guess."""
    vae = tiny_vae().double()
    decoder = MagvitDecoder(vae)
    memory = decoder.grid.memory
    latents = noise(memory + 5, side=1).double()
    chunk = range(memory + 3, memory + 5)
    before = range(chunk.start)
    _, carried = decoder.decode_chunk(latents[: chunk.start], chunk=before, seen=before, carried=None)
    expected, state = decoder.decode_chunk(latents[chunk.start :], chunk=chunk, seen=chunk, carried=carried)
    seen = range(chunk.start - memory, chunk.stop)
    got, left = decoder.decode_chunk(latents[seen.start :], chunk=chunk, seen=seen, carried=None)
    assert torch.equal(got, expected)
    assert all(map(torch.equal, left, state))

    def state_after(first: int) -> tuple[torch.Tensor, ...]:
        before = range(first, chunk.start)
        return decoder.decode_chunk(latents[first : chunk.start], chunk=before[-1:], seen=before, carried=None)[1]

    assert all(map(torch.equal, state_after(chunk.start - memory), carried))
    assert not all(map(torch.equal, state_after(chunk.start - memory + 1), carried))


def test_memory_at_full_size() -> None:
    with torch.device("meta"):
        assert decoder_memory(AutoencoderKLMagvit().decoder) == 49


def test_a_norm_over_time_reaches_further() -> None:
    kwargs = {"block_out_channels": (4, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 4}
    apart, together = (
        decoder_memory(AutoencoderKLMagvit(latent_channels=4, spatial_group_norm=spatial, **kwargs).decoder)
        for spatial in (True, False)
    )
    assert together > apart


def newest_first(vae: AutoencoderKLMagvit, share: float) -> AutoencoderKLMagvit:
    """Let each of a convolution's three frames count ``share`` as much as the next newer one, as long as all before."""
    taps = torch.tensor([share**2, share, 1.0])
    taps *= 3**0.5 / taps.norm()
    for module in vae.decoder.modules():
        if isinstance(module, EasyAnimateCausalConv3d):
            module.weight.mul_(taps[:, None, None])
    return vae


def test_error_of_a_warm_up_and_its_bound() -> None:
    """Weights that look at the past half as much at each step back: within 2 % of the pictures' spread, and falling."""
    vae = newest_first(tiny_vae(), 0.5)
    latents = noise(PARALLEL_CHUNK_LATENTS * 3, side=8)
    expected = stock_decode(vae, latents)

    def error(warm_up: int) -> float:
        difference = in_chunks(MagvitDecoder(vae, warm_up=warm_up), latents) - expected
        return float(difference.pow(2).mean().sqrt() / expected.std())

    errors = [error(warm_up) for warm_up in (1, 4, WARM_UP_LATENTS)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] <= 0.02 < errors[0]


def test_a_long_enough_warm_up_is_exact(vae) -> None:
    memory = MagvitDecoder(vae).grid.memory
    latents = noise(memory + 2 * PARALLEL_CHUNK_LATENTS)
    decoder = MagvitDecoder(vae, warm_up=memory)
    assert decoder.grid.hand_over is HandOver.NONE
    assert decoder.grid.before == memory
    assert torch.equal(in_chunks(decoder, latents), in_chunks(MagvitDecoder(vae), latents))


def test_nothing_of_a_video_leaks_into_the_next(vae) -> None:
    decoder, latents = MagvitDecoder(vae), noise(4)
    alone = in_chunks(decoder, latents)
    decoder.decode_chunk(noise(8)[4:], chunk=range(4), seen=range(4), carried=None)
    assert torch.equal(in_chunks(decoder, latents), alone), "a video that was begun and left"
    broken = latents[:, :1]  # as many channels as no VAE takes
    with pytest.raises(RuntimeError):
        decoder.decode_chunk(torch.cat([broken, broken]), chunk=range(2), seen=range(2), carried=None)
    with pytest.raises(ValueError, match="carried: 1 tensors are not the"):
        decoder.decode_chunk(latents, chunk=range(4, 8), seen=range(4, 8), carried=(torch.zeros(1),))
    assert all(features is None for features in state_of(vae.decoder))
    assert torch.equal(in_chunks(decoder, latents), alone), "a failure"
    assert torch.equal(stock_decode(vae, latents), stock_decode(vae, latents))


def test_a_state_is_no_part_of_the_module(vae) -> None:
    """What one chunk left stays what it was, whatever is decoded after it."""
    decoder, latents = MagvitDecoder(vae), noise(8)
    _, carried = decoder.decode_chunk(latents[:4], chunk=range(4), seen=range(4), carried=None)
    copies = [features.clone() for features in carried]
    first, _ = decoder.decode_chunk(latents[4:], chunk=range(4, 8), seen=range(4, 8), carried=carried)
    again, _ = decoder.decode_chunk(latents[4:], chunk=range(4, 8), seen=range(4, 8), carried=carried)
    assert torch.equal(first, again)
    assert all(map(torch.equal, carried, copies))
    with causal_state(vae.decoder, carried), pytest.raises(ZeroDivisionError):
        raise ZeroDivisionError
    assert all(features is None for features in state_of(vae.decoder))


def video_of(pictures: dict[int, torch.Tensor], frame_count: int) -> torch.Tensor:
    video = torch.full((1, 3, frame_count, SIZE, SIZE), BLANK)
    for frame, picture in pictures.items():
        video[0, :, frame] = picture
    return video


def picture(seed: int) -> torch.Tensor:
    return torch.rand(3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("given", [(0,), (0, -1), (-1,), ()])
@pytest.mark.parametrize("frame_count", [1, 5, 49, 237])
def test_a_sparse_video_is_encoded_as_stock(vae, given: tuple[int, ...], frame_count: int) -> None:
    pictures = {place % frame_count: picture(place) for place in given}
    runs = encode_sparse(vae, pictures, frame_count, (SIZE, SIZE))
    with torch.inference_mode():
        expected = vae.encode(video_of(pictures, frame_count)).latent_dist.mode()[0].transpose(0, 1)
    count = GRID.latent_count(frame_count)
    torch.testing.assert_close(runs.of(range(count)), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(runs.of(range(count // 2, count)), runs.of(range(count))[count // 2 :])
    assert all(features is None for features in state_of(vae.encoder))


def test_its_cost_does_not_grow_with_the_length(vae, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = itertools.count()
    forward = EasyAnimateEncoder.forward

    def counted(self, chunk):
        next(calls)
        return forward(self, chunk)

    monkeypatch.setattr(EasyAnimateEncoder, "forward", counted)
    costs = []
    for frame_count in (401, 4001):
        before = next(calls)
        runs = encode_sparse(vae, {0: picture(1), frame_count - 1: picture(2)}, frame_count, (SIZE, SIZE))
        costs.append((next(calls) - before - 1, len(runs.starts), runs.byte_count))
    assert costs[0] == costs[1]
    assert costs[0][0] <= 32, "not one chunk after the encoder has forgotten the image, but for the last one"
