"""CUDA's attention kernels and the plain arithmetic give what softmax over all keys gives, log-sum-exp included."""

from __future__ import annotations

import pytest
import torch

from vinf_core.context.segments import attend, merge

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.mark.parametrize("head_dim", [128, 64, 12])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.bfloat16, 3e-2), (torch.float16, 4e-3), (torch.float32, 5e-3), (torch.float64, 1e-11)],
    ids=str,
)
def test_segments_on_the_device(dtype: torch.dtype, tolerance: float, head_dim: int) -> None:
    """In float32 the device may round products to TF32; numbers of queries and keys that no tile divides."""
    generator = torch.Generator().manual_seed(1)
    query, key, value = (
        torch.randn(2, n, 3, head_dim, generator=generator).to("cuda", dtype).transpose(1, 2) for n in (37, 101, 101)
    )
    parts = [attend(query, key[:, :, cut], value[:, :, cut]) for cut in (slice(5), slice(5, 5), slice(5, 101))]
    merged = merge([parts[0], parts[1], parts[2].biased(1.0)])
    scores = query.double() @ key.double().transpose(2, 3) * head_dim**-0.5
    scores[..., 5:] += 1.0
    assert (merged.out.double() - scores.softmax(-1) @ value.double()).abs().max() < tolerance
    assert (merged.lse.double() - scores.logsumexp(-1)).abs().max() < tolerance
