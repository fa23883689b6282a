"""Group norms over scenes: as exact as the values allow, in every precision."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vinf_core.context.normalisation import scene_norms
from vinf_core.distributed.exchange import Exchange
from vinf_core.distributed.topology import Topology
from vinf_core.events import StageClock

pytestmark = pytest.mark.fast


def make_norm(dtype: torch.dtype) -> nn.GroupNorm:
    torch.manual_seed(1)
    norm = nn.GroupNorm(4, 8)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm.to(dtype).requires_grad_(False)


def normalised(values: torch.Tensor, cuts: list[int], norm: nn.GroupNorm) -> list[torch.Tensor]:
    """Each scene of ``[B, C, f, positions]`` normalised by its own statistics."""
    topology = Topology.single()
    exchange = Exchange(topology, None, StageClock(topology.device))
    pieces = list(torch.tensor_split(values, cuts, dim=2))
    norms = scene_norms(list(enumerate(pieces)), len(pieces), values.shape[0], norm, exchange)
    assert exchange.reduction_count == 1, "all scenes share one reduction"
    return [affine.apply(piece) for affine, piece in zip(norms, pieces, strict=True)]


@pytest.mark.parametrize("mean", [0.0, 30.0, 300.0])
def test_float32_statistics_do_not_cancel(mean: float) -> None:
    torch.manual_seed(2)
    values = torch.randn(2, 8, 5, 64) + mean
    (got,) = normalised(values, [], make_norm(torch.float32))
    norm = make_norm(torch.float64)
    expected = F.group_norm(values.double(), 4, norm.weight, norm.bias, norm.eps)
    # A value of 300 is stored to 3e-5; nothing computed from it can be closer.
    assert (got - expected).abs().max() < 1e-5 + 1e-6 * mean


def test_half_precision_is_normalised_by_float32_statistics() -> None:
    torch.manual_seed(2)
    values = (torch.randn(1, 8, 40, 64) + 3).bfloat16()
    norm = make_norm(torch.bfloat16)
    (got,) = normalised(values, [], norm)
    assert got.dtype == torch.bfloat16
    expected = F.group_norm(values.double(), 4, norm.weight.double(), norm.bias.double(), norm.eps)
    # Exact but for the one rounding of the result.
    assert ((got.double() - expected).abs() <= 2**-8 * expected.abs() + 1e-6).all()


def test_scenes_have_statistics_of_their_own() -> None:
    torch.manual_seed(2)
    values = torch.randn(2, 8, 7, 16)
    values[:, :, 3:] += 5
    norm = make_norm(torch.float32)
    for got, piece in zip(normalised(values, [3, 4], norm), torch.tensor_split(values, [3, 4], dim=2), strict=True):
        torch.testing.assert_close(got, norm(piece), rtol=1e-5, atol=1e-5)
