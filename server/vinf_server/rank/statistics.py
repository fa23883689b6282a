"""What a rank has done so far, as its beats tell it."""

from __future__ import annotations

from vinf.engine.v1 import engine_link_service_pb2 as pb
from vinf_core.distributed.axes import Axes
from vinf_core.distributed.control import ControlPlane
from vinf_core.engine.generator import Generator
from vinf_core.events import StageClock
from vinf_server.rank.beats import Tally


class Statistics:
    """Reads the counters of the engine's parts, from any thread; none of them is written here."""

    def __init__(
        self, control: ControlPlane, axes: Axes, generator: Generator, clock: StageClock, fetched: Tally
    ) -> None:
        self._control = control
        self._axes = axes
        self._generator = generator
        self._clock = clock
        self._fetched = fetched

    def fill(self, beat: pb.BeatRequest) -> None:
        """Write the counts and seconds so far into a beat."""
        generator, prompts = self._generator, self._generator.texts.cache
        images = generator.model.image_cache
        beat.progress_count = (
            self._control.round_count
            + self._axes.operation_count
            + (generator.slices.begun_count + generator.decoded_frames)
            + (prompts.hit_count + prompts.miss_count)
            + self._fetched.count
        )
        beat.busy_seconds.update({stage.value: seconds for stage, seconds in self._clock.seconds.items()})
        beat.frame_count = generator.decoded_frames
        beat.step_count, beat.step_seconds = generator.steps
        beat.prompt_cache_hit_count = prompts.hit_count
        beat.prompt_cache_miss_count = prompts.miss_count
        if images is not None:
            beat.image_cache_hit_count = images.hit_count
            beat.image_cache_miss_count = images.miss_count
