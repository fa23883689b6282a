"""How the ranks get on with one generation, from taking it up to letting it go."""

from __future__ import annotations

from vinf_server.front.generations.generation import Generation


class Run:
    """One go of the ranks at a generation; one that was interrupted takes several. Times are seconds of one clock."""

    def __init__(self, generation: Generation, now: float) -> None:
        self._generation = generation
        self._since = now
        self._first_step = generation.completed_steps
        self._first_frames = generation.frames.completed_count
        self.stage = ""
        """Empty before the first report."""
        self._stage_since = now

    def enter(self, stage: str, now: float) -> tuple[str, float] | None:
        """Note what the ranks do from now on; returns the stage that ended with it and its seconds, if one did.

        Frames are delivered while others are decoded: whoever has begun to deliver does not go back to decoding.
        """
        if stage == self.stage or (self.stage, stage) == ("deliver", "decode"):
            return None
        ended = self.leave(now)
        self.stage, self._stage_since = stage, now
        return ended

    def leave(self, now: float) -> tuple[str, float] | None:
        """Return the stage that ends now and its seconds; None before the first one."""
        return (self.stage, now - self._stage_since) if self.stage else None

    def realtime_factor(self, now: float) -> float:
        """Seconds of video made in a second: 1 keeps up with a viewer.

        The frames come at the end, so what is made is taken to grow with the denoising steps of this run, or with
        the frames that it stores where no step was left for it. Any thread may ask.
        """
        spec = self._generation.resolved_spec
        elapsed, rate = now - self._since, spec.frame_rate
        if elapsed <= 0 or not rate.num:
            return 0.0
        if self._first_step < spec.inference_step_count:
            done = (self._generation.completed_steps - self._first_step) / spec.inference_step_count
            frames = spec.frame_count * done
        else:
            frames = self._generation.frames.completed_count - self._first_frames
        return float(frames / elapsed * rate.den / rate.num)
