"""Attention in segments equals attention over all keys, however they are cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from vinf_core.context import segments
from vinf_core.context.segments import Attended, attend, attend_plainly, empty, merge

pytestmark = pytest.mark.fast

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}


def inputs(keys: int, scale: float = 1.0, dtype: torch.dtype = torch.float64, dim: int = 8) -> list[torch.Tensor]:
    """Query, key and value as the models have them: heads behind tokens, so that no layout is dense."""
    generator = torch.Generator().manual_seed(keys)
    made = [torch.randn(2, n, 3, dim, dtype=torch.float64, generator=generator) for n in (5, keys, keys)]
    return [(tensor * (scale if index == 0 else 1)).to(dtype).transpose(1, 2) for index, tensor in enumerate(made)]


def dense(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """All of it in float64."""
    scores = query.double() @ key.double().transpose(2, 3) * query.shape[-1] ** -0.5
    if bias is not None:
        scores = scores + bias
    return scores.softmax(-1) @ value.double(), scores.logsumexp(-1)


def assert_equal(got: Attended, expected: tuple[torch.Tensor, torch.Tensor], tolerance: float) -> None:
    out, lse = expected
    assert (got.out.double() - out).abs().max() < tolerance * max(1.0, float(out.abs().max()))
    assert (got.lse.double() - lse).abs().max() < tolerance * max(1.0, float(lse.abs().max()))


@pytest.mark.parametrize("function", [attend, attend_plainly])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("scale", [1.0, 300.0], ids=["usual logits", "large logits"])
def test_one_segment_is_softmax_attention(function, dtype: torch.dtype, scale: float) -> None:
    query, key, value = inputs(7, scale, dtype)
    got = function(query, key, value)
    assert_equal(got, dense(query, key, value), TOLERANCE[dtype])
    assert got.out.dtype == dtype
    assert got.lse.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("scale", [1.0, 300.0], ids=["usual logits", "large logits"])
@pytest.mark.parametrize("cuts", [[4], [1, 2, 10], [0, 0, 5, 5, 11]], ids=str)
def test_segments_merge_to_the_whole(dtype: torch.dtype, scale: float, cuts: list[int]) -> None:
    """Empty segments among them; with large logits all the weight of a query may lie in one segment."""
    query, key, value = inputs(11, scale, dtype)
    edges = [0, *cuts, 11]
    parts = [attend(query, key[:, :, start:stop], value[:, :, start:stop]) for start, stop in pairwise(edges)]
    for order in (parts, parts[::-1]):
        assert_equal(merge(order), dense(query, key, value), TOLERANCE[dtype])


@pytest.mark.parametrize("bias", [2.0, -5.0, 800.0])
def test_a_bias_on_a_segment_is_one_on_its_logits(bias: float) -> None:
    query, key, value = inputs(9)
    logits = torch.zeros(9, dtype=torch.float64)
    logits[4:] = bias
    parts = [attend(query, key[:, :, :4], value[:, :, :4]), attend(query, key[:, :, 4:], value[:, :, 4:]).biased(bias)]
    assert_equal(merge(parts), dense(query, key, value, logits), 1e-12)
    unbiased, _ = dense(query, key, value)
    assert (merge(parts).out - unbiased).abs().max() > 1e-3, "the bias does nothing"


def test_no_keys_at_all() -> None:
    query, key, value = inputs(6)
    nothing = attend(query, key[:, :, :0], value[:, :, :0])
    assert not nothing.out.any()
    assert (nothing.lse == -torch.inf).all()
    both = merge([nothing, empty(query)])
    assert not both.out.any()
    assert (both.lse == -torch.inf).all()
    assert_equal(merge([both, attend(query, key, value)]), dense(query, key, value), 1e-12)
    assert attend(query[:, :, :0], key, value).out.shape == (2, 3, 0, 8)


def test_merging_leaves_its_segments_alone() -> None:
    query, key, value = inputs(6)
    parts = [attend(query, key[:, :, half], value[:, :, half]) for half in (slice(3), slice(3, 6))]
    before = [part.out.clone() for part in parts]
    merge(parts)
    assert all(torch.equal(part.out, out) for part, out in zip(parts, before, strict=True))


def test_halves_of_bfloat16_are_merged_in_float32() -> None:
    query, key, value = inputs(40, dtype=torch.bfloat16)
    merged = merge([attend(query, key[:, :, k : k + 1], value[:, :, k : k + 1]) for k in range(40)])
    assert merged.out.dtype == torch.float32
    out, _ = dense(query, key, value)
    assert (merged.out - out).abs().max() < 1e-5, "single keys give their values unrounded: only the merge can err"


def test_plain_arithmetic_never_holds_all_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = inputs(7)
    monkeypatch.setattr(segments, "PLAIN_BYTES", 2 * 3 * 7 * 8 * 2)  # two queries at a time
    largest = 0
    softmax = torch.Tensor.softmax

    def watched(scores: torch.Tensor, dim: int) -> torch.Tensor:
        nonlocal largest
        largest = max(largest, scores.shape[2])
        return softmax(scores, dim)

    monkeypatch.setattr(torch.Tensor, "softmax", watched)
    got = attend_plainly(query, key, value)
    monkeypatch.undo()
    assert largest == 2
    assert_equal(got, dense(query, key, value), 1e-12)


def test_shapes_without_values() -> None:
    """On ``meta``, where full-size models are counted."""
    query, key, value = (tensor.to("meta") for tensor in inputs(7, dtype=torch.bfloat16))
    merged = merge([attend(query, key, value).biased(1.0), empty(query)])
    assert merged.out.shape == (2, 3, 5, 8)
    assert merged.lse.shape == (2, 3, 5)
