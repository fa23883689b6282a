"""Attention in segments: over some of the keys at a time, merged to what attention over all of them gives.

Softmax over keys in several sets is a weighted sum of the softmaxes over each set; the weights follow from the
log-sum-exp of the sets' logits (Milakov and Gimelshein, arXiv:1805.02867; FlashAttention, arXiv:2205.14135; across
devices Ring Attention, arXiv:2310.01889):

    lse = log(sum_i exp(lse_i))        out = sum_i exp(lse_i - lse) * out_i

The merge is exact: only rounding tells how the keys were cut. A constant added to the logits of one set moves its
log-sum-exp by that constant and leaves its softmax alone, so that a bias costs nothing.

PyTorch's own ``scaled_dot_product_attention`` does not return the log-sum-exp, the kernels below it do. They are
called by name: on CPUs the flash kernel, which knows every floating type; on CUDA the flash kernel for half precision
and the memory-efficient one for float32. Where none of them fits, plain arithmetic in slices of queries does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch

PLAIN_BYTES = 64 * 2**20
"""Scores that plain arithmetic holds at once."""

_FLASH_HEAD_DIM = 256
"""The largest that CUDA's flash kernel knows."""


@dataclass(frozen=True, slots=True)
class Attended:
    """Attention over a segment of the keys."""

    out: torch.Tensor
    """``[B, heads, queries, d]``: what the segment alone would give; zeros where it has no keys."""
    lse: torch.Tensor
    """``[B, heads, queries]``: log-sum-exp of its logits; float64 for float64 inputs, else float32; minus infinity
    where it has no keys."""

    def biased(self, bias: float) -> Attended:
        """The same with ``bias`` added to all of the segment's logits."""
        return replace(self, lse=self.lse + bias) if bias else self


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> Attended:
    """Attention over one segment, logits scaled by ``1 / sqrt(d)``; on any device, ``meta`` included.

    Args:
        query: ``[B, heads, queries, d]``, in any layout whose last dimension is dense.
        key, value: ``[B, heads, keys, d]``, of the same type; there may be no keys.
    """
    if not key.shape[2] or not query.shape[2]:
        return empty(query)
    kind = query.device.type
    if kind == "cpu":
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value)
        return Attended(out, lse)
    if kind == "meta" or (kind == "cuda" and _flash_fits(query)):
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[:2]
        return Attended(out, lse)
    if kind == "cuda" and _efficient_fits(query):
        out, lse = torch.ops.aten._scaled_dot_product_efficient_attention(
            query, key, value, attn_bias=None, compute_log_sumexp=True
        )[:2]
        # The kernel rounds the number of queries up.
        return Attended(out, lse[:, :, : query.shape[2]])
    return attend_plainly(query, key, value)


def attend_plainly(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> Attended:
    """`attend` without a kernel, in float32 or better; never more than `PLAIN_BYTES` of scores beyond one query's."""
    wide = torch.promote_types(query.dtype, torch.float32)
    scale = query.shape[-1] ** -0.5
    keys, values = key.to(wide).transpose(2, 3), value.to(wide)
    row_bytes = key.shape[0] * key.shape[1] * key.shape[2] * wide.itemsize
    step = max(1, PLAIN_BYTES // max(1, row_bytes))
    out = query.new_empty((*query.shape[:3], value.shape[-1]))
    lse = query.new_empty(query.shape[:3], dtype=wide)
    for start in range(0, query.shape[2], step):
        rows = slice(start, start + step)
        scores = query[:, :, rows].to(wide) @ keys * scale
        lse[:, :, rows] = scores.logsumexp(dim=-1)
        out[:, :, rows] = (scores.softmax(dim=-1) @ values).to(out.dtype)
    return Attended(out, lse)


def empty(query: torch.Tensor) -> Attended:
    """Attention over no keys: it changes nothing it is merged with."""
    wide = torch.promote_types(query.dtype, torch.float32)
    return Attended(torch.zeros_like(query), query.new_full(query.shape[:3], float("-inf"), dtype=wide))


def merge(segments: Iterable[Attended]) -> Attended:
    """Attention over the keys of all segments, each of which is a key of one only; at least one segment.

    Returns:
        One segment as it is; the sum of several in the type of their log-sum-exp, summed in the order given.
    """
    first, *others = segments
    if not others:
        return first
    lse = first.lse
    out = first.out.to(lse.dtype, copy=True)
    for other in others:
        total = torch.logaddexp(lse, other.lse)
        # Where there are no keys at all, minus infinity minus itself would be no number.
        base = total.clamp_min(torch.finfo(total.dtype).min)
        out.mul_((lse - base).exp_().unsqueeze(-1))
        out.addcmul_(other.out.to(lse.dtype), (other.lse - base).exp_().unsqueeze(-1))
        lse = total
    return Attended(out, lse)


def _flash_fits(query: torch.Tensor) -> bool:
    half = query.dtype in (torch.float16, torch.bfloat16)
    fits = query.shape[-1] % 8 == 0 and query.shape[-1] <= _FLASH_HEAD_DIM
    return half and fits and torch.cuda.get_device_capability(query.device) >= (8, 0)


def _efficient_fits(query: torch.Tensor) -> bool:
    # bfloat16 needs what the flash kernel needs.
    return query.dtype in (torch.float16, torch.float32) and query.shape[-1] % 8 == 0
