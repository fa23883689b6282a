"""Which rank owns which frames. Pure arithmetic, the same on every rank."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from vinf_core.errors import InvalidSpecError
from vinf_core.types import Clip


def partition(frame_count: int, weights: Sequence[float]) -> tuple[Clip, ...]:
    """Cut a video into one contiguous clip a rank, as near to the ranks' weights as whole frames allow.

    The largest remainders are rounded up, of equal ones those of lower ranks: with equal weights the longer clips come
    first, and with fewer frames than ranks the last clips are empty. Exact arithmetic: the same on every machine.

    Args:
        frame_count: frames of the video.
        weights: one positive number a rank, in rank order.

    Raises:
        InvalidSpecError: a weight that is no positive number.
    """
    for rank, weight in enumerate(weights):
        if not 0 < weight < float("inf"):
            raise InvalidSpecError(f"weights[{rank}]: {weight} is not a finite number above 0")
    shares = [Fraction(weight) for weight in weights]
    quotas = [frame_count * share / sum(shares) for share in shares]
    counts = [int(quota) for quota in quotas]
    by_remainder = sorted(range(len(shares)), key=lambda rank: counts[rank] - quotas[rank])
    for rank in by_remainder[: frame_count - sum(counts)]:
        counts[rank] += 1
    return clips_of(counts)


def clips_of(counts: Sequence[int]) -> tuple[Clip, ...]:
    """Turn clip lengths in rank order into clips.

    Raises:
        InvalidSpecError: a negative length.
    """
    clips = []
    start = 0
    for count in counts:
        if count < 0:
            raise InvalidSpecError(f"clip length: {count} is less than 0")
        clips.append(Clip(start, count))
        start += count
    return tuple(clips)
