"""Frames, which are pictures, and latent frames, which are steps of the latent time axis.

Where r frames share a latent frame, latent frame 0 stands for frame 0 alone and latent frame j > 0 for the frames
r (j - 1) + 1 to r j, as causal VAEs have it: a video of k + 1 latent frames has r k + 1 frames. With r = 1 both are the
same. The engine's denoising half counts in latent frames, everything outside in frames.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from vinf_core.errors import InvalidSpecError
from vinf_core.types import Clip, GenerationSpec, PromptSegment, TemporalScope


@dataclass(frozen=True, slots=True)
class FrameGrid:
    """Which frames share a latent frame."""

    frames_per_latent: int = 1

    def __post_init__(self) -> None:
        if self.frames_per_latent < 1:
            raise ValueError(f"frames_per_latent: {self.frames_per_latent} is less than 1")

    def fits(self, frame_count: int) -> bool:
        """Whether a video can have so many frames, 1 or more."""
        return (frame_count - 1) % self.frames_per_latent == 0

    def nearest(self, frame_count: int) -> tuple[int, ...]:
        """The lengths next to one of 1 or more: itself where it fits, else the next shorter and the next longer one."""
        below = frame_count - (frame_count - 1) % self.frames_per_latent
        return (below,) if below == frame_count else (below, below + self.frames_per_latent)

    def latent_count(self, frame_count: int) -> int:
        """Latent frames of a video.

        Raises:
            InvalidSpecError: no video has so many frames.
        """
        if not self.fits(frame_count):
            near = " or ".join(map(str, self.nearest(frame_count)))
            raise InvalidSpecError(
                f"frame_count: {frame_count} is not a multiple of {self.frames_per_latent}, plus 1; nearest are {near}"
            )
        return 1 + (frame_count - 1) // self.frames_per_latent

    def latent_of(self, frame: int) -> int:
        """The latent frame that holds a frame."""
        return -(-frame // self.frames_per_latent)

    def frames_of(self, latents: range) -> range:
        """The frames of consecutive latent frames; of none, none, where they would be."""
        return range(self._first(latents.start), self._first(latents.stop))

    def clip_in_frames(self, clip: Clip) -> Clip:
        """The frames of a clip of latent frames."""
        frames = self.frames_of(clip.frames)
        return Clip(frames.start, len(frames))

    def clip_in_latents(self, clip: Clip) -> Clip:
        """The latent frames of a clip of frames.

        Raises:
            InvalidSpecError: it divides a latent frame.
        """
        latents = range(self.latent_of(clip.start), self.latent_of(clip.stop))
        if self.frames_of(latents) != clip.frames:
            raise InvalidSpecError(
                f"clip_frame_counts: a clip of frames {clip.start} to {clip.stop - 1} divides a latent frame of "
                f"{self.frames_per_latent}"
            )
        return Clip(latents.start, len(latents))

    def spec_in_latents(self, spec: GenerationSpec) -> GenerationSpec:
        """What the denoising half works on: the same video counted in latent frames, without its images.

        Windows, overlaps, global frames and transitions are rounded up, a segment starts with the latent frame that
        holds its first frame. Of two segments that start with the same one the later counts.

        Raises:
            InvalidSpecError: no video has so many frames.
        """
        if self.frames_per_latent == 1:
            return spec
        return replace(
            spec,
            frame_count=self.latent_count(spec.frame_count),
            scope=self.scope_in_latents(spec.scope),
            segments=self._segments_in_latents(spec.segments),
            images=(),
        )

    def scope_in_latents(self, scope: TemporalScope) -> TemporalScope:
        """A scope with its windows, global frames and overlaps counted in latent frames, rounded up."""
        return replace(
            scope,
            local_window_frames=2 * self.latent_of(scope.half_window),
            global_frames=self.latent_of(scope.global_frames),
            overlap_frames=self.latent_of(scope.overlap_frames),
        )

    def _segments_in_latents(self, segments: tuple[PromptSegment, ...]) -> tuple[PromptSegment, ...]:
        made: list[PromptSegment] = []
        for segment in segments:
            start = self.latent_of(segment.start_frame)
            stop = self.latent_of(segment.start_frame + segment.transition_frames - 1) + 1
            cut = segment.cut
            if made and made[-1].start_frame == start:
                cut |= made.pop().cut
            if made:  # the transition before ends at the latest where this segment starts
                room = start - made[-1].start_frame
                made[-1] = replace(made[-1], transition_frames=min(made[-1].transition_frames, room))
            transition = stop - start if segment.transition_frames and not cut else 0
            made.append(replace(segment, start_frame=start, transition_frames=transition, cut=cut))
        return tuple(made)

    def _first(self, latent: int) -> int:
        """The first frame of a latent frame."""
        return (latent - 1) * self.frames_per_latent + 1 if latent else 0
