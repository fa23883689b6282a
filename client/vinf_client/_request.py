"""Arguments of a generation: what is checked here, and how they become a specification on the wire.

On the wire 0 means "the server's default", so an explicit 0 never travels: it is refused here, by name. Everything
else is the server's to judge (`ServerInfo` has its limits); what is checked here is only what the wire cannot carry.
"""

import math
import operator
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypedDict

from vinf.v1 import generation_pb2 as pb
from vinf_client._convert import CHOICE_NUMBERS, NOISE_NUMBERS, SOLVER_NUMBERS
from vinf_client._errors import Violation
from vinf_client._images import LAST_FRAME, ImageCondition, check_images, write_images
from vinf_client._types import GlobalChoice, InitialNoise, Model, PromptSegment, ServerInfo, Solver, TemporalScope

_INT32 = 2**31 - 1
_INT64 = 2**63 - 1
_LONGEST_PROMPT = 1_000_000  # characters; more would not fit a message
_OMIT = "leave it out for the server's default"


class SpecOptions(TypedDict, total=False):
    """Keywords of `Client.generate` and `Client.submit`; each left out (or None) means the server's default."""

    frames: int | None
    seed: int | None  # same seed, same video; 0 lets the server pick one, as leaving it out does
    negative_prompt: str | None
    width: int | None  # pixels
    height: int | None  # pixels
    steps: int | None
    guidance: float | None  # 1 switches guidance off
    model: str | None
    fps: float | Fraction | str | None  # how fast it is played: 24, 23.976 or "24000/1001"
    solver: str | None  # "ddim", "dpm++" or "flow-euler"
    segments: Sequence[PromptSegment] | None  # the rest of a story; the prompt holds until the first one starts
    image_conditions: Sequence[ImageCondition] | None  # pictures that frames shall look like, where a model takes any

    # Any of these makes the temporal scope a custom one; those left out keep the model's own numbers, 0 is a number.
    window: int | None  # neighbours that a frame sees, even
    global_frames: int | None  # frames of the whole video that all frames see
    phase_timestep: int | None  # above it the global frames are favoured, below it the window
    phase_bias: float | None
    global_across_cuts: bool | None  # whether that sample is the whole video's also when it is cut into scenes
    initial_noise: str | None  # "independent" or "freenoise"
    global_choice: str | None  # "even" or "key-frames"
    overlap: int | None  # frames that windows of the trained length share; 0: dual scope


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecArguments:
    """What the caller asked for, unchecked; None is the server's default."""

    prompt: str
    frames: int | None = None
    seed: int | None = None
    negative_prompt: str | None = None
    width: int | None = None
    height: int | None = None
    steps: int | None = None
    guidance: float | None = None
    model: str | None = None
    fps: float | Fraction | str | None = None
    solver: str | None = None
    segments: Sequence[PromptSegment] | None = None
    image_conditions: Sequence[ImageCondition] | None = None
    window: int | None = None
    global_frames: int | None = None
    phase_timestep: int | None = None
    phase_bias: float | None = None
    global_across_cuts: bool | None = None
    initial_noise: str | None = None
    global_choice: str | None = None
    overlap: int | None = None

    @property
    def customises_scope(self) -> bool:
        """Whether any part of the temporal scope is the caller's."""
        numbers = (self.window, self.global_frames, self.phase_timestep, self.phase_bias, self.overlap)
        kinds = (self.global_across_cuts, self.initial_noise, self.global_choice)
        return any(value is not None for value in (*numbers, *kinds))

    @property
    def needs_frame_count(self) -> bool:
        """Whether the last frame is meant and only the server knows which that is."""
        return self.frames is None and any(image.frame_index == LAST_FRAME for image in self.image_conditions or ())


def check(arguments: SpecArguments, info: ServerInfo | None = None) -> list[Violation]:
    """Find every violation that can be told without the server; `info` adds its ranges to the messages."""
    model = info.model(arguments.model) if info is not None else None
    steps = info.limits.max_step_count if info is not None and model is not None else 0
    return [
        *_check_texts(arguments, model),
        *_check_whole("spec.frame_count", arguments.frames, 1, _INT64, _frames_range(model)),
        *_check_whole("spec.width", arguments.width, 1, _INT32, _width_range(model)),
        *_check_whole("spec.height", arguments.height, 1, _INT32, _height_range(model)),
        *_check_whole("spec.inference_step_count", arguments.steps, 1, _INT32, f"[1, {steps}]" if steps else ""),
        *_check_whole("spec.seed", arguments.seed, 0, _INT64),
        *_check_guidance(arguments.guidance, info),
        *_check_rate(arguments.fps),
        *_check_name("spec.solver", arguments.solver, SOLVER_NUMBERS),
        *_check_whole("spec.temporal_scope.local_window_frames", arguments.window, 0, _INT32),
        *_check_whole("spec.temporal_scope.global_frames", arguments.global_frames, 0, _INT32),
        *_check_whole("spec.temporal_scope.phase_timestep", arguments.phase_timestep, 0, _INT32),
        *_check_bias(arguments.phase_bias),
        *_check_flag("spec.temporal_scope.global_across_cuts", arguments.global_across_cuts),
        *_check_name("spec.temporal_scope.initial_noise", arguments.initial_noise, NOISE_NUMBERS),
        *_check_name("spec.temporal_scope.global_choice", arguments.global_choice, CHOICE_NUMBERS),
        *_check_whole("spec.temporal_scope.overlap_frames", arguments.overlap, 0, _INT32, _overlap_range(model)),
        *_check_overlap_alone(arguments),
        *_check_segments(arguments.segments, model),
        *check_images(arguments.image_conditions, info.limits.max_image_bytes if info is not None else 0),
    ]


def build(
    arguments: SpecArguments,
    *,
    scope: TemporalScope | None = None,
    frame_count: int = 1,
    without: Collection[str] = (),
) -> pb.GenerationSpec:
    """Write the specification; what was not given stays unset.

    Args:
        arguments: the caller's, checked.
        scope: the model's own, for the numbers of a custom scope that the caller did not give.
        frame_count: the model's own, for an image of the last frame where the caller did not give one.
        without: fields to leave out because `check` refused them.

    Raises:
        InvalidRequestError: an image cannot be read.
    """
    given = {
        "prompt": arguments.prompt,
        "negative_prompt": arguments.negative_prompt,
        "model": arguments.model,
        "width": arguments.width,
        "height": arguments.height,
        "frame_count": arguments.frames,
        "seed": arguments.seed,
        "inference_step_count": arguments.steps,
        "guidance_scale": arguments.guidance,
    }
    spec = pb.GenerationSpec(
        **{name: value for name, value in given.items() if value is not None and f"spec.{name}" not in without}  # type: ignore[arg-type]
    )
    if arguments.fps is not None and "spec.frame_rate" not in without:
        rate = _rate(arguments.fps)
        spec.frame_rate.num, spec.frame_rate.den = rate.numerator, rate.denominator
    if arguments.solver is not None and "spec.solver" not in without:
        spec.solver = SOLVER_NUMBERS[Solver(arguments.solver)]
    if arguments.customises_scope and not any(path.startswith("spec.temporal_scope") for path in without):
        _write_scope(spec.temporal_scope, arguments, scope or TemporalScope(0, 0, 0, 0.0))
    if not any(path.startswith("spec.prompt_segments") for path in without):
        spec.prompt_segments.extend(
            pb.PromptSegment(
                start_frame_index=segment.start_frame,
                prompt=segment.prompt,
                transition_frame_count=segment.transition_frames,
                cut=segment.cut,
            )
            for segment in arguments.segments or ()
        )
    if not any(path.startswith("spec.image_conditions") for path in without):
        write_images(spec, arguments.image_conditions, frame_count=spec.frame_count or frame_count)
    return spec


def _write_scope(message: pb.TemporalScope, arguments: SpecArguments, default: TemporalScope) -> None:
    message.mode = pb.TEMPORAL_SCOPE_MODE_CUSTOM
    message.local_window_frames = _either(arguments.window, default.local_window_frames)
    message.global_frames = _either(arguments.global_frames, default.global_frames)
    message.phase_timestep = _either(arguments.phase_timestep, default.phase_timestep)
    message.phase_bias = default.phase_bias if arguments.phase_bias is None else arguments.phase_bias
    across = arguments.global_across_cuts
    message.global_across_cuts = default.global_across_cuts if across is None else across
    noise = default.initial_noise if arguments.initial_noise is None else InitialNoise(arguments.initial_noise)
    choice = default.global_choice if arguments.global_choice is None else GlobalChoice(arguments.global_choice)
    # A kind that only a newer server knows cannot be told.
    message.initial_noise = NOISE_NUMBERS.get(noise, pb.INITIAL_NOISE_UNSPECIFIED)
    message.global_choice = CHOICE_NUMBERS.get(choice, pb.GLOBAL_CHOICE_UNSPECIFIED)
    message.overlap_frames = _either(arguments.overlap, default.overlap_frames)


def _either(value: int | None, default: int) -> int:
    return default if value is None else value


def _rate(value: float | Fraction | str) -> Fraction:
    """Read 24, 23.976 or "24000/1001" as the nearest rate the wire can carry."""
    return Fraction(value).limit_denominator(1001)


def _check_texts(arguments: SpecArguments, model: Model | None) -> list[Violation]:
    texts = {"negative_prompt": arguments.negative_prompt, "model": arguments.model}
    found = _check_text("spec.prompt", arguments.prompt, model, required=True)
    for name, text in texts.items():
        found += _check_text(f"spec.{name}", text, model) if text is not None else []
    return found


def _check_text(path: str, text: object, model: Model | None, *, required: bool = False) -> list[Violation]:
    longest = model.max_prompt_chars if model is not None else 0
    if not isinstance(text, str):
        return [Violation(path, f"must be text, got {text!r}")]
    if not encodable(text):
        return [Violation(path, "is not valid Unicode text")]
    if len(text) > _LONGEST_PROMPT:
        return [Violation(path, f"must have at most {longest or _LONGEST_PROMPT} characters, got {len(text)}")]
    if required and not text.strip():
        size = f"[1, {longest}] characters" if longest else "at least 1 character"
        return [Violation(path, f"must not be empty; allowed: {size}")]
    return []


def _check_segments(segments: Sequence[PromptSegment] | None, model: Model | None) -> list[Violation]:
    """Check types and signs; their order and the room between them are the server's to judge."""
    path = "spec.prompt_segments"
    if segments is None:
        return []
    if not isinstance(segments, Sequence) or isinstance(segments, str):
        return [Violation(path, f"must be a list of PromptSegment, got {segments!r}")]
    found = []
    for index, segment in enumerate(segments):
        place = f"{path}[{index}]"
        if not isinstance(segment, PromptSegment):
            found.append(Violation(place, f"must be a PromptSegment, got {segment!r}"))
            continue
        found += _check_given_whole(f"{place}.start_frame_index", segment.start_frame, 1)
        found += _check_text(f"{place}.prompt", segment.prompt, model, required=True)
        found += _check_given_whole(f"{place}.transition_frame_count", segment.transition_frames, 0)
        if not isinstance(segment.cut, bool):
            found.append(Violation(f"{place}.cut", f"must be True or False, got {segment.cut!r}"))
    return found


def _check_given_whole(path: str, value: int, least: int) -> list[Violation]:
    """Check a number that has no default."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None:
        return [Violation(path, f"must be a whole number, got {value!r}")]
    if not least <= number <= _INT64:
        return [Violation(path, f"{number} is not allowed; allowed: at least {least}")]
    return []


def _check_flag(path: str, value: bool | None) -> list[Violation]:
    if value is None or isinstance(value, bool):
        return []
    return [Violation(path, f"must be True or False, got {value!r}")]


def _check_overlap_alone(arguments: SpecArguments) -> list[Violation]:
    """Overlapping windows take the place of the dual scope: on the wire its numbers would do nothing, in silence."""
    if not arguments.overlap:
        return []
    dual_scope = {
        "local_window_frames": arguments.window,
        "global_frames": arguments.global_frames,
        "phase_timestep": arguments.phase_timestep,
        "phase_bias": arguments.phase_bias,
        "global_across_cuts": arguments.global_across_cuts,
        "global_choice": arguments.global_choice,
    }
    instead = f"must not be given with an overlap of {arguments.overlap!r} frames, which takes its place"
    return [
        Violation(f"spec.temporal_scope.{name}", instead) for name, value in dual_scope.items() if value is not None
    ]


def encodable(text: str) -> bool:
    """Whether a text can travel."""
    try:
        text.encode()
    except UnicodeEncodeError:  # lone surrogates: bytes of the command line that were no UTF-8
        return False
    return True


def _check_whole(path: str, value: int | None, least: int, most: int, allowed: str = "") -> list[Violation]:
    if value is None:
        return []
    allowed = allowed or (f"[{least}, {most}]" if most == _INT64 and least == 0 else f"at least {least}")
    try:
        number = operator.index(value)
    except TypeError:
        return [Violation(path, f"must be a whole number, got {value!r}")]
    if isinstance(value, bool):
        return [Violation(path, f"must be a whole number, got {value!r}")]
    if least <= number <= most:
        return []
    hint = f" ({_OMIT})" if number == 0 else ""
    return [Violation(path, f"{number} is not allowed; allowed: {allowed}{hint}")]


def _check_guidance(value: float | None, info: ServerInfo | None) -> list[Violation]:
    most = info.limits.max_guidance_scale if info is not None else 0
    allowed = f"[1, {most:g}]" if most else "at least 1"
    if value is None or (_is_number(value) and math.isfinite(value) and value > 0):
        return []
    hint = f" ({_OMIT})" if value == 0 else ""
    return [Violation("spec.guidance_scale", f"{value} is not allowed; allowed: {allowed}{hint}")]


def _check_bias(value: float | None) -> list[Violation]:
    if value is None or (_is_number(value) and math.isfinite(value)):
        return []
    return [Violation("spec.temporal_scope.phase_bias", f"{value} is not allowed; allowed: [0, 100]")]


def _check_rate(value: float | Fraction | str | None) -> list[Violation]:
    if value is None:
        return []
    try:
        fits = 1 <= _rate(value) <= 240
    except (ValueError, TypeError, OverflowError, ZeroDivisionError):
        fits = False
    if fits:
        return []
    return [
        Violation("spec.frame_rate", f"{value} is not allowed; allowed: a rate in [1, 240], such as 24 or 24000/1001")
    ]


def _check_name(path: str, value: str | None, names: Iterable[str]) -> list[Violation]:
    if value is None or (isinstance(value, str) and value in names):
        return []
    return [Violation(path, f"{value!r} is not allowed; allowed: {', '.join(names)}")]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _frames_range(model: Model | None) -> str:
    if model is None:
        return ""
    step = f", a multiple of {model.frame_count_step} plus 1" if model.frame_count_step > 1 else ""
    return f"[1, {model.max_frame_count}]{step}"


def _overlap_range(model: Model | None) -> str:
    return f"[0, {model.trained_frame_count - 1}]" if model is not None else ""


def _width_range(model: Model | None) -> str:
    return _size_range(model.min_width, model.max_width, model.size_multiple) if model is not None else ""


def _height_range(model: Model | None) -> str:
    return _size_range(model.min_height, model.max_height, model.size_multiple) if model is not None else ""


def _size_range(least: int, most: int, multiple: int) -> str:
    return f"[{least}, {most}], a multiple of {multiple}"
