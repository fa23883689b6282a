"""Clip lengths in proportion to what each rank can do.

The weights are the operator's, or each rank's own speed over the earlier generations of this launch, the time it spent
communicating left out. Ranks that work on one clip together are as fast as the slowest of them. Weights are turned into
whole frames before a generation starts, and never change within one.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Literal, TypeVar

from vinf_core.context.partition import partition
from vinf_core.distributed.control import ControlPlane
from vinf_core.distributed.topology import Mesh
from vinf_core.events import StageClock
from vinf_core.types import Clip, Stage

Number = TypeVar("Number", int, float)

RankWeights = tuple[float, ...] | Literal["measured", "even"]
"""One positive number a rank, or where to take them from."""

AskedWeights = RankWeights | Literal["auto"]
"""What an operator may ask for; `settle_weights` finds out what auto means."""

SAME_SPEED = 0.1
"""Measured speeds that differ by no more than this share are the same: noise must not move frames about."""


def settle_weights(asked: AskedWeights, *, device_name: str, control: ControlPlane) -> RankWeights:
    """Turn auto into even clips where all ranks have the same kind of device, and into measured speeds otherwise.

    Speeds differ a little from run to run, and with them the clips and the last bits of a video; ranks that are alike
    gain nothing from that. Call it on all ranks at the same place, once: all come to the same answer.

    Args:
        asked: by the operator, of all ranks alike.
        device_name: of this rank's device, without its number.
        control: of the group.
    """
    if asked != "auto":
        return asked
    names = control.gather(zlib.crc32(device_name.encode()))
    return "even" if len(set(names)) == 1 else "measured"


def choose_clips(
    weights: RankWeights, frame_count: int, *, speed: int, control: ControlPlane, mesh: Mesh | None = None
) -> tuple[Clip, ...]:
    """Cut a video into the clips of a mesh; call it on all ranks at the same place, all come to the same clips.

    Args:
        weights: the operator's numbers, one a rank, or where to take them from.
        frame_count: frames of the video.
        speed: this rank's, in any unit that all ranks share; 0: not measured yet.
        control: of the group.
        mesh: of the world; None: every rank has a clip.
    """
    mesh = mesh or Mesh()
    if weights == "measured":
        return partition(frame_count, settle_speeds(slowest_of_clips(control.gather(speed), mesh)))
    if weights == "even":
        return partition(frame_count, [1] * mesh.clip_count(control.world_size))
    return partition(frame_count, slowest_of_clips(weights, mesh))


def largest_clip_share(weights: RankWeights, world_size: int, mesh: Mesh | None = None) -> float:
    """Return the longest clip's share of a video's frames, at most; measured weights may come to anything."""
    mesh = mesh or Mesh()
    if weights == "even":
        return 1 / mesh.clip_count(world_size)
    if weights == "measured":
        return 1.0
    of_clips = slowest_of_clips(weights, mesh)
    return max(of_clips) / sum(of_clips)


def slowest_of_clips(of_ranks: Sequence[Number], mesh: Mesh) -> list[Number]:
    """Take of each clip's ranks the smallest number.

    Args:
        of_ranks: one number a rank, in rank order.
        mesh: of the world.
    """
    size = mesh.clip_ranks
    return [min(of_ranks[first : first + size]) for first in range(0, len(of_ranks), size)]


def settle_speeds(speeds: Sequence[int]) -> list[float]:
    """Turn measured speeds into weights: ranks of about the same speed get the same one, their mean.

    Args:
        speeds: of each rank, in rank order; 0: not measured. When any is 0, all are the same.
    """
    if min(speeds) <= 0:
        return [1.0] * len(speeds)
    weights = [0.0] * len(speeds)
    fastest_first = sorted(range(len(speeds)), key=lambda rank: -speeds[rank])
    while fastest_first:
        limit = speeds[fastest_first[0]] * (1 - SAME_SPEED)
        alike = [rank for rank in fastest_first if speeds[rank] >= limit]
        for rank in alike:
            weights[rank] = sum(speeds[other] for other in alike) / len(alike)
        fastest_first = fastest_first[len(alike) :]
    return weights


class SpeedMeter:
    """How fast this rank computes, from the denoising steps of all generations so far."""

    def __init__(self, clock: StageClock) -> None:
        self._clock = clock
        self._mark: float | None = None
        self._values = 0
        self._seconds = 0.0
        self.steps = (0, 0.0)
        """Steps of all generations, and the clock's seconds of denoising at the end of the newest one; any thread may
        read it."""

    def begin_generation(self) -> None:
        """Leave the next step out: caches and kernels for new shapes warm up in it."""
        self._mark = None

    def step_ended(self, values: int) -> None:
        """Count a step.

        Args:
            values: latent values that this rank denoised; a rank without any learns nothing about its speed.
        """
        now = self._clock.seconds[Stage.DENOISE]
        self.steps = (self.steps[0] + 1, now)
        if self._mark is not None and values:
            self._values += values
            self._seconds += now - self._mark
        self._mark = now

    @property
    def speed(self) -> int:
        """Latent values denoised by one step, a second of this rank's own computing; 0: not measured yet."""
        return round(self._values / self._seconds) if self._seconds > 0 else 0
