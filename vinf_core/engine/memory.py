"""What a generation will need: measured once at start-up, predicted for each one from plain numbers."""

from __future__ import annotations

from dataclasses import dataclass

CONTEXT_SHARE = 0.5
"""A frame of another rank is held by one module at a time: at most this share of what all modules hold of one's own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryModel:
    """Predicts what the worst rank holds, so that what does not fit is never started; the same on every rank.

    A generation of F frames of W x H pixels fits when `denoise_bytes` of ``ceil(F * largest_clip_share)`` frames and of
    the context that they see, one text at a time, and `decode_bytes` are at most ``budget_bytes``. With overlapping
    windows the longest clip counts as at least one window, and there is no context.
    """

    budget_bytes: int
    """What a rank may use."""
    fixed_bytes: int
    """Weights, libraries and what a pass of the denoiser takes whatever the length."""
    bytes_per_frame_pixel: float
    """What each frame of the clip adds for each pixel of the picture, one text at a time."""
    decode_fixed_bytes: int
    """What is held while a slice is decoded, apart from what grows with the picture."""
    decode_bytes_per_pixel: float
    """What decoding a slice adds for each pixel of the picture."""
    largest_clip_share: float
    """Share of the frames in the longest clip, 1 / N on N equal ranks."""

    @classmethod
    def fitted(
        cls,
        *,
        lengths: tuple[int, int],
        peaks: tuple[int, int],
        idle_bytes: int,
        decode_peak: int,
        pixels: int,
        budget_bytes: int,
        largest_clip_share: float,
    ) -> MemoryModel:
        """Draw the line through two passes of the denoiser.

        Args:
            lengths: frames of the shorter and of the longer pass, one text each.
            peaks: what they held at most, in bytes.
            idle_bytes: held when nothing is computed.
            decode_peak: held at most while a slice is decoded.
            pixels: of the pictures.
            budget_bytes, largest_clip_share: see the fields.
        """
        slope = max(0.0, (peaks[1] - peaks[0]) / ((lengths[1] - lengths[0]) * pixels))
        return cls(
            budget_bytes=budget_bytes,
            fixed_bytes=round(peaks[1] - slope * lengths[1] * pixels),
            bytes_per_frame_pixel=slope,
            decode_fixed_bytes=idle_bytes,
            decode_bytes_per_pixel=max(0, decode_peak - idle_bytes) / pixels,
            largest_clip_share=largest_clip_share,
        )

    def denoise_bytes(self, clip_frames: int, pixels: int, texts: int = 1, *, context_frames: int = 0) -> int:
        """Predict a rank's peak while denoising ``clip_frames`` frames of ``pixels`` each, ``texts`` at once.

        Args:
            clip_frames: of the longest clip.
            pixels: of the picture.
            texts: computed together.
            context_frames: frames of other ranks that it sees.
        """
        frames = clip_frames + CONTEXT_SHARE * context_frames
        return round(self.fixed_bytes + self.bytes_per_frame_pixel * frames * pixels * texts)

    def decode_bytes(self, pixels: int) -> int:
        """Predict a rank's peak while decoding."""
        return round(self.decode_fixed_bytes + self.decode_bytes_per_pixel * pixels)

    def texts_at_once(self, clip_frames: int, pixels: int, texts: int, *, context_frames: int = 0) -> int:
        """Say whether all texts of a step fit into the budget together, else 1: one after the other, slower."""
        fits = self.denoise_bytes(clip_frames, pixels, texts, context_frames=context_frames) <= self.budget_bytes
        return texts if fits else 1
