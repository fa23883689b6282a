"""The nouns of the core: specification, temporal scope, clip, model limits."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum

from vinf_core.errors import InvalidSpecError


class Solver(StrEnum):
    """How the denoising steps are integrated."""

    DDIM = "ddim"
    DPM_SOLVER_PP_2M = "dpm_solver_pp_2m"
    FLOW_EULER = "flow_euler"
    """Euler steps along a flow, for models that predict a velocity from noise to picture."""


class InitialNoise(StrEnum):
    """What the frames of a video start from."""

    INDEPENDENT = "independent"
    """Every frame has noise of its own."""
    FREENOISE = "freenoise"
    """A scene's first frames have noise of their own, the later ones that of earlier frames, shuffled."""


class GlobalChoice(StrEnum):
    """How the global frames are chosen."""

    EVEN = "even"
    """Evenly spaced."""
    KEY_FRAMES = "key_frames"
    """Of each of as many segments the frame that says most, chosen anew while the video takes shape."""


class Stage(StrEnum):
    """What a rank spends its time on."""

    TEXT = "text"
    DENOISE = "denoise"
    COMMUNICATE = "communicate"
    CHECKPOINT = "checkpoint"
    DECODE = "decode"
    DELIVER = "deliver"


class ImageFrames(StrEnum):
    """Which frames a model's image conditions may be for."""

    NONE = "none"
    """It takes no images."""
    FIRST = "first"
    FIRST_AND_LAST = "first_and_last"
    """The first frame, the last one, or both."""
    ANY = "any"


@dataclass(frozen=True, kw_only=True, slots=True)
class TemporalScope:
    """What a frame sees of the others: its neighbours and a sample of the whole video (Video-Infinity, section 4.2)."""

    local_window_frames: int
    """Neighbours a query frame sees, half before and half after it; the frame itself always counts besides."""
    global_frames: int
    """Frames sampled from the whole video that every query sees."""
    phase_timestep: int = 0
    """Timesteps above it favour the global frames, the others the local window."""
    phase_bias: float = 0.0
    """Added to the attention logits of the favoured frames; 0 switches the phase rule off."""
    global_across_cuts: bool = False
    """Whether the global frames sample the whole video also when it is cut into scenes; else each scene its own."""
    initial_noise: InitialNoise = InitialNoise.INDEPENDENT
    global_choice: GlobalChoice = GlobalChoice.EVEN
    overlap_frames: int = 0
    """More than 0: no dual scope, but windows of the trained length that share so many frames with the next one, fused
    at each step (`diffusion.fusion`). Of the rest only the noise counts then."""

    def __post_init__(self) -> None:
        if self.overlap_frames < 0:
            raise InvalidSpecError(f"overlap_frames: {self.overlap_frames} is less than 0")
        if self.local_window_frames < 0 or self.local_window_frames % 2:
            raise InvalidSpecError(
                f"local_window_frames: {self.local_window_frames} is not an even number of frames, 0 or more"
            )
        if self.global_frames < 0:
            raise InvalidSpecError(f"global_frames: {self.global_frames} is less than 0")
        if self.phase_timestep < 0:
            raise InvalidSpecError(f"phase_timestep: {self.phase_timestep} is less than 0")
        if not (math.isfinite(self.phase_bias) and self.phase_bias >= 0):
            raise InvalidSpecError(f"phase_bias: {self.phase_bias} is not a finite number, 0 or more")
        if self.global_choice is GlobalChoice.KEY_FRAMES and not self.global_frames:
            raise InvalidSpecError(f"global_choice: {self.global_choice} has nothing to choose with global_frames 0")

    @property
    def half_window(self) -> int:
        """Frames seen on each side."""
        return self.local_window_frames // 2


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptSegment:
    """A later stretch of the video's timeline, with a prompt of its own; it lasts until the next one starts."""

    start_frame: int
    prompt: str
    transition_frames: int = 0
    """Frames from ``start_frame`` on over which the text moves from the prompt before to this one; 0: at once."""
    cut: bool = False
    """Whether a new scene starts: no window, halo or temporal norm reaches across; only without a transition."""

    def __post_init__(self) -> None:
        if self.start_frame < 1:
            raise InvalidSpecError(f"start_frame: {self.start_frame} is less than 1")
        if self.transition_frames < 0:
            raise InvalidSpecError(f"transition_frames: {self.transition_frames} is less than 0")
        if self.cut and self.transition_frames:
            raise InvalidSpecError(f"transition_frames: {self.transition_frames} is not 0, which a cut demands")


@dataclass(frozen=True, slots=True)
class ImageCondition:
    """A picture that a frame shall look like; `vinf_core.models.images.pixels_of` makes a tensor of it."""

    frame_index: int
    pixels: bytes = field(repr=False)
    """RGB, one byte each, ``[H, W, 3]`` in the video's size."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationSpec:
    """A resolved specification: the same one gives the same video on any number of ranks."""

    prompt: str
    frame_count: int
    width: int
    """Pixels."""
    height: int
    """Pixels."""
    seed: int
    step_count: int
    guidance_scale: float
    """1 switches guidance off."""
    scope: TemporalScope
    solver: Solver = Solver.DPM_SOLVER_PP_2M
    negative_prompt: str = ""
    frame_rate: float = 8.0
    """Frames a second; models that were trained with it as a condition move accordingly."""
    segments: tuple[PromptSegment, ...] = ()
    """The rest of the timeline, by ascending start frame; ``prompt`` holds until the first one starts."""
    images: tuple[ImageCondition, ...] = ()
    """By ascending frame index; only for models that take images (``ModelLimits.image_frames``)."""

    def __post_init__(self) -> None:
        for name in ("frame_count", "width", "height", "step_count"):
            if getattr(self, name) < 1:
                raise InvalidSpecError(f"{name}: {getattr(self, name)} is less than 1")
        if not 0 <= self.seed < 2**63:
            raise InvalidSpecError(f"seed: {self.seed} is not in [0, 2^63 - 1]")
        if not (math.isfinite(self.guidance_scale) and self.guidance_scale >= 1):
            raise InvalidSpecError(f"guidance_scale: {self.guidance_scale} is not a finite number, 1 or more")
        if not (math.isfinite(self.frame_rate) and self.frame_rate > 0):
            raise InvalidSpecError(f"frame_rate: {self.frame_rate} is not a finite number above 0")
        free = 1  # first frame at which the next segment may start
        for index, segment in enumerate(self.segments):
            stop = segment.start_frame + max(1, segment.transition_frames)
            if not free <= segment.start_frame < self.frame_count or stop > self.frame_count:
                raise InvalidSpecError(
                    f"segments[{index}]: frames {segment.start_frame} to {stop - 1} are not in "
                    f"[{free}, {self.frame_count - 1}]"
                )
            free = stop
        free, size = 0, self.width * self.height * 3
        for index, image in enumerate(self.images):
            if not free <= image.frame_index < self.frame_count:
                raise InvalidSpecError(
                    f"images[{index}]: frame {image.frame_index} is not in [{free}, {self.frame_count - 1}]"
                )
            if len(image.pixels) != size:
                raise InvalidSpecError(f"images[{index}]: {len(image.pixels)} bytes are not the {size} of a frame")
            free = image.frame_index + 1

    @property
    def scenes(self) -> tuple[range, ...]:
        """The video's frames between its cuts; one range when there is none."""
        starts = [0, *(segment.start_frame for segment in self.segments if segment.cut)]
        return tuple(range(start, stop) for start, stop in zip(starts, [*starts[1:], self.frame_count], strict=True))

    @property
    def guided(self) -> bool:
        """Whether the prompt-free half of classifier-free guidance is computed."""
        return self.guidance_scale > 1


@dataclass(frozen=True, slots=True)
class Clip:
    """The frames one rank owns: ``start`` to ``start + count``, ``count`` may be 0."""

    start: int
    count: int

    @property
    def stop(self) -> int:
        """First frame after the clip."""
        return self.start + self.count

    @property
    def frames(self) -> range:
        """Its frame indices."""
        return range(self.start, self.stop)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelLimits:
    """A model's defaults and limits as plain numbers, fit to cross a process boundary."""

    name: str
    default_width: int
    default_height: int
    min_width: int
    max_width: int
    min_height: int
    max_height: int
    size_multiple: int
    """Width and height are multiples of this."""
    default_frame_count: int
    max_frame_count: int
    trained_frame_count: int
    """Clip length the model was trained on."""
    default_frame_rate: tuple[int, int]
    """Numerator and denominator, frames per second."""
    default_step_count: int
    default_guidance_scale: float
    default_solver: Solver
    default_scope: TemporalScope
    max_prompt_chars: int
    max_prompt_words: int = 0
    """0: no limit in words."""
    vocabulary: tuple[str, ...] = ()
    """The only words a prompt may use; empty: any text."""
    image_frames: ImageFrames = ImageFrames.NONE
    """Which frames images may be given for."""
    max_images: int = 0
    """Of a generation; at least 1 where the model takes any."""
    min_images: int = 0
    """Of a generation: 1 for a model that cannot do without."""
    frames_per_latent: int = 1
    """Frames that a latent frame stands for, the first one apart (`FrameGrid`); a video has r k + 1 of them."""
    solvers: tuple[Solver, ...] = (Solver.DDIM, Solver.DPM_SOLVER_PP_2M)
    """Those that suit what it predicts; the default one is among them."""
    takes_story: bool = True
    """Whether the prompt may change in the middle of a video; else its text is one for all frames."""

    def __post_init__(self) -> None:
        if self.frames_per_latent < 1:
            raise ValueError(f"frames_per_latent: {self.frames_per_latent} is less than 1")
        if self.default_solver not in self.solvers:
            raise ValueError(f"default_solver: {self.default_solver.value} is not one of solvers")
        if (self.default_frame_count - 1) % self.frames_per_latent:
            raise ValueError(
                f"default_frame_count: {self.default_frame_count} is not a multiple of {self.frames_per_latent}, plus 1"
            )
        if (self.max_images > 0) != (self.image_frames != ImageFrames.NONE):
            raise ValueError(f"max_images: {self.max_images} does not go with image_frames {self.image_frames.value}")
        if not 0 <= self.min_images <= self.max_images:
            raise ValueError(f"min_images: {self.min_images} is not in [0, {self.max_images}]")
