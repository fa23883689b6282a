"""A specification against the model's limits, and its defaults."""

from __future__ import annotations

import math
import re

from vinf.engine.v1 import engine_link_service_pb2 as link_pb2
from vinf.v1 import generation_pb2
from vinf_server.front.errors import Violation
from vinf_server.front.generations.making import MAX_SEED

MAX_STEP_COUNT = 200
MAX_GUIDANCE_SCALE = 50.0
MAX_GLOBAL_FRAMES = 256
MAX_PHASE_TIMESTEP = 1000
MAX_PHASE_BIAS = 100.0
MAX_SEGMENTS = 64
MAX_RATE_NUM, MAX_RATE_DEN, MAX_RATE = 240_000, 1001, 240

_LISTED_WORDS = 40
"""Words of a vocabulary, or unknown words of a prompt, that a message lists at most."""

_SHOWN_WORDS = 8
_SHOWN_CHARS = 24

_WORD_BREAK = re.compile(r"[\s.,!?;:]+")

SOLVERS = {
    "ddim": generation_pb2.SOLVER_DDIM,
    "dpm_solver_pp_2m": generation_pb2.SOLVER_DPM_SOLVER_PP_2M,
    "flow_euler": generation_pb2.SOLVER_FLOW_EULER,
}


def range_text(value: float, low: float, high: float, *, unit: str = "", zero: str = "") -> str:
    """Say what is allowed and what came instead."""
    default = f" (default {zero})" if zero else ""
    return f"must be in [{low:.12g}, {high:.12g}]{' ' + unit if unit else ''}{default}, got {value:.12g}"


def scope_message(scope: link_pb2.Scope) -> generation_pb2.TemporalScope:
    """A model's scope as clients see it."""
    return generation_pb2.TemporalScope(
        mode=generation_pb2.TEMPORAL_SCOPE_MODE_CUSTOM,
        local_window_frames=scope.local_window_frames,
        global_frames=scope.global_frames,
        phase_timestep=scope.phase_timestep,
        phase_bias=scope.phase_bias,
        global_across_cuts=scope.global_across_cuts,
        initial_noise=(
            generation_pb2.INITIAL_NOISE_FREENOISE if scope.freenoise else generation_pb2.INITIAL_NOISE_INDEPENDENT
        ),
        global_choice=(
            generation_pb2.GLOBAL_CHOICE_KEY_FRAMES if scope.key_frames else generation_pb2.GLOBAL_CHOICE_EVEN
        ),
        overlap_frames=scope.overlap_frames,
    )


def split_words(text: str) -> list[str]:
    """The words of a prompt as a model with a vocabulary reads them."""
    return [word for word in _WORD_BREAK.split(text.lower()) if word]


class SpecValidator:
    """Checks one specification and keeps every violation."""

    def __init__(self, limits: link_pb2.ModelLimits) -> None:
        self._limits = limits
        self.violations: list[Violation] = []

    def check(self, spec: generation_pb2.GenerationSpec) -> generation_pb2.GenerationSpec:
        """Return the specification with every default but the seed filled in; worthless if there are violations."""
        limits = self._limits
        frame_count = self._frame_count(spec.frame_count)
        return generation_pb2.GenerationSpec(
            model=limits.name,
            prompt=self._prompt("prompt", spec.prompt.strip(), minimum=1),
            negative_prompt=self._prompt("negative_prompt", spec.negative_prompt.strip(), minimum=0),
            width=self._size("width", spec.width, limits.min_width, limits.max_width, limits.default_width),
            height=self._size("height", spec.height, limits.min_height, limits.max_height, limits.default_height),
            frame_count=frame_count,
            frame_rate=self._frame_rate(spec),
            seed=self._seed(spec.seed),
            inference_step_count=self._integer(
                "inference_step_count", spec.inference_step_count, MAX_STEP_COUNT, limits.default_step_count, "steps"
            ),
            guidance_scale=self._guidance(spec.guidance_scale),
            solver=self._solver(spec.solver),
            temporal_scope=self._scope(spec),
            prompt_segments=self._segments(spec, frame_count),
            image_conditions=self._images(spec, frame_count),
        )

    def _add(self, field: str, description: str) -> None:
        self.violations.append(Violation(f"spec.{field}", description))

    def _prompt(self, field: str, text: str, *, minimum: int) -> str:
        limits = self._limits
        if not minimum <= len(text) <= limits.max_prompt_chars:
            self._add(
                field,
                f"must have {minimum} to {limits.max_prompt_chars} characters without surrounding white space, "
                f"got {len(text)}",
            )
            return ""
        words = split_words(text)
        if limits.max_prompt_words and len(words) > limits.max_prompt_words:
            self._add(field, f"must have at most {limits.max_prompt_words} words, got {len(words)}")
        if limits.vocabulary:
            self._check_vocabulary(field, text, words)
        return text

    def _check_vocabulary(self, field: str, text: str, words: list[str]) -> None:
        vocabulary = self._limits.vocabulary
        known = set(vocabulary)
        unknown = list(dict.fromkeys(word for word in words if word not in known))
        listed = ", ".join(vocabulary[:_LISTED_WORDS]) + (", …" if len(vocabulary) > _LISTED_WORDS else "")
        if unknown:
            shown = ", ".join(repr(word[:_SHOWN_CHARS]) for word in unknown[:_SHOWN_WORDS])
            more = f" and {len(unknown) - _SHOWN_WORDS} more" if len(unknown) > _SHOWN_WORDS else ""
            self._add(field, f"has words this model does not know: {shown}{more}; it knows: {listed}")
        elif text and not words:
            self._add(field, f"has no words; this model knows: {listed}")

    def _size(self, field: str, value: int, low: int, high: int, default: int) -> int:
        multiple = max(1, self._limits.size_multiple)
        value = value or default
        if not low <= value <= high or value % multiple:
            self._add(
                field,
                f"must be in [{low}, {high}] pixels and a multiple of {multiple} (default {default}), got {value}",
            )
        return value

    def _frame_count(self, value: int) -> int:
        limits, each = self._limits, max(1, self._limits.frames_per_latent)
        value = self._integer("frame_count", value, limits.max_frame_count, limits.default_frame_count, "frames")
        if 1 <= value <= limits.max_frame_count and (value - 1) % each:
            below = value - (value - 1) % each
            near = " or ".join(str(count) for count in (below, below + each) if count <= limits.max_frame_count)
            self._add("frame_count", f"must be a multiple of {each}, plus 1: {near} would do, got {value}")
        return value

    def _integer(self, field: str, value: int, high: int, default: int, unit: str) -> int:
        value = value or default
        if not 1 <= value <= high:
            self._add(field, range_text(value, 1, high, unit=unit, zero=str(default)))
        return value

    def _seed(self, seed: int) -> int:
        if seed < 0:
            self._add("seed", f"must be in [0, {MAX_SEED}] (default: the server picks one), got {seed}")
        return seed

    def _guidance(self, scale: float) -> float:
        default = self._limits.default_guidance_scale
        scale = scale or default
        if not 1 <= scale <= MAX_GUIDANCE_SCALE:  # false for NaN, too
            self._add("guidance_scale", range_text(scale, 1, MAX_GUIDANCE_SCALE, zero=f"{default:g}"))
        return scale

    def _frame_rate(self, spec: generation_pb2.GenerationSpec) -> generation_pb2.Rational:
        limits = self._limits
        num, den = spec.frame_rate.num, spec.frame_rate.den
        if num == 0 and den == 0:
            return generation_pb2.Rational(num=limits.default_frame_rate_num, den=limits.default_frame_rate_den)
        is_in_range = True
        for field, value, high in (("num", num, MAX_RATE_NUM), ("den", den, MAX_RATE_DEN)):
            if not 1 <= value <= high:
                is_in_range = False
                self._add(f"frame_rate.{field}", range_text(value, 1, high))
        if is_in_range and not den <= num <= MAX_RATE * den:
            self._add("frame_rate", f"num / den must be in [1, {MAX_RATE}] frames per second, got {num}/{den}")
        return generation_pb2.Rational(num=num, den=den)

    def _solver(self, solver: generation_pb2.Solver.ValueType) -> generation_pb2.Solver.ValueType:
        if solver == generation_pb2.SOLVER_UNSPECIFIED:
            return SOLVERS[self._limits.default_solver]
        allowed = [SOLVERS[name] for name in self._limits.solvers]
        if solver not in allowed:
            listed = ", ".join(f"{value} = {name}" for name, value in SOLVERS.items() if value in allowed)
            name = next((f" = {name}" for name, value in SOLVERS.items() if value == solver), "")
            self._add("solver", f"must be one of {listed} (default: the model's own), got {solver}{name}")
        return solver

    def _scope(self, spec: generation_pb2.GenerationSpec) -> generation_pb2.TemporalScope:
        wanted = spec.temporal_scope
        if wanted.mode not in generation_pb2.TemporalScopeMode.values():
            self._add("temporal_scope.mode", f"must be 0, 1 = DEFAULT or 2 = CUSTOM, got {wanted.mode}")
        if wanted.mode != generation_pb2.TEMPORAL_SCOPE_MODE_CUSTOM:
            return scope_message(self._limits.default_temporal_scope)
        self._check_custom_scope(wanted)
        return generation_pb2.TemporalScope(
            mode=generation_pb2.TEMPORAL_SCOPE_MODE_CUSTOM,
            local_window_frames=wanted.local_window_frames,
            global_frames=wanted.global_frames,
            phase_timestep=wanted.phase_timestep,
            phase_bias=wanted.phase_bias,
            global_across_cuts=wanted.global_across_cuts,
            initial_noise=wanted.initial_noise or generation_pb2.INITIAL_NOISE_INDEPENDENT,
            global_choice=wanted.global_choice or generation_pb2.GLOBAL_CHOICE_EVEN,
            overlap_frames=wanted.overlap_frames,
        )

    def _check_custom_scope(self, scope: generation_pb2.TemporalScope) -> None:
        window, widest = scope.local_window_frames, 2 * self._limits.max_frame_count
        if not 0 <= window <= widest or window % 2:
            self._add("temporal_scope.local_window_frames", f"must be even and in [0, {widest}] frames, got {window}")
        for field, value, high, unit in (
            ("global_frames", scope.global_frames, MAX_GLOBAL_FRAMES, "frames"),
            ("phase_timestep", scope.phase_timestep, MAX_PHASE_TIMESTEP, "training timesteps"),
            ("phase_bias", scope.phase_bias, MAX_PHASE_BIAS, "logits"),
            ("overlap_frames", scope.overlap_frames, max(0, self._limits.trained_frame_count - 1), "frames"),
        ):
            if math.isnan(value) or not 0 <= value <= high:
                self._add(f"temporal_scope.{field}", range_text(value, 0, high, unit=unit))
        noise, choice = scope.initial_noise, scope.global_choice
        if noise not in generation_pb2.InitialNoise.values():
            self._add("temporal_scope.initial_noise", f"must be 0, 1 = INDEPENDENT or 2 = FREENOISE, got {noise}")
        if choice not in generation_pb2.GlobalChoice.values():
            self._add("temporal_scope.global_choice", f"must be 0, 1 = EVEN or 2 = KEY_FRAMES, got {choice}")
        elif choice == generation_pb2.GLOBAL_CHOICE_KEY_FRAMES and scope.global_frames == 0:
            self._add("temporal_scope.global_choice", "must not be KEY_FRAMES where global_frames is 0")

    def _segments(self, spec: generation_pb2.GenerationSpec, frame_count: int) -> list[generation_pb2.PromptSegment]:
        """Check the rest of the timeline against the resolved frame count."""
        segments = spec.prompt_segments
        if segments and self._limits.single_prompt:
            only = f"model {self._limits.name!r} takes one prompt for the whole video"
            self._add("prompt_segments", f"must be empty, {only}, got {len(segments)} segments")
            return []
        if len(segments) > MAX_SEGMENTS:
            self._add("prompt_segments", f"must be at most {MAX_SEGMENTS} segments, got {len(segments)}")
            return []
        # A frame count that is wrong itself is told already; what no video can have is wrong all the same.
        longest = self._limits.max_frame_count
        stop = frame_count if 1 <= frame_count <= longest else longest
        latest = 0  # newest start that is in order: one that is not spoils none behind it
        for index, segment in enumerate(segments):
            field, start = f"prompt_segments[{index}]", segment.start_frame_index
            if latest < start < stop:
                latest = start
            elif latest + 1 < stop:
                after = f", after the start of the segment before it at {latest}" if latest else ""
                self._add(f"{field}.start_frame_index", f"must be in [{latest + 1}, {stop - 1}]{after}, got {start}")
            else:
                self._add(f"{field}.start_frame_index", f"has no frame left behind frame {latest}, got {start}")
            following = segments[index + 1].start_frame_index if index + 1 < len(segments) else stop
            self._check_transition(f"{field}.transition_frame_count", segment, following, stop)
        return [
            generation_pb2.PromptSegment(
                start_frame_index=segment.start_frame_index,
                prompt=self._prompt(f"prompt_segments[{index}].prompt", segment.prompt.strip(), minimum=1),
                transition_frame_count=segment.transition_frame_count,
                cut=segment.cut,
            )
            for index, segment in enumerate(segments)
        ]

    def _images(self, spec: generation_pb2.GenerationSpec, frame_count: int) -> list[generation_pb2.ImageCondition]:
        """Check which frames images are for; the images themselves are looked at elsewhere (`rpc/images.py`)."""
        conditions, most = spec.image_conditions, self._limits.max_image_count
        if len(conditions) > most:
            takes = f"at most {most} image{'' if most == 1 else 's'}" if most else "no images"
            self._add("image_conditions", f"model {self._limits.name!r} takes {takes}, got {len(conditions)}")
            return []
        fewest = self._limits.min_image_count
        if len(conditions) < fewest:
            needs = f"needs at least {fewest} image{'' if fewest == 1 else 's'}"
            self._add("image_conditions", f"model {self._limits.name!r} {needs}, got {len(conditions)}")
        longest = self._limits.max_frame_count
        stop = frame_count if 1 <= frame_count <= longest else longest
        allowed = {"first": (0,), "first_and_last": tuple(sorted({0, stop - 1}))}.get(self._limits.image_frames)
        seen: set[int] = set()
        for index, frame in enumerate(condition.frame_index for condition in conditions):
            field = f"image_conditions[{index}].frame_index"
            if allowed is not None and frame not in allowed:
                frames = " or ".join(map(str, allowed))
                takes = "the first frame" if self._limits.image_frames == "first" else "the first and the last frame"
                takes = f"model {self._limits.name!r} takes images for {takes} alone"
                self._add(field, f"must be {frames}, got {frame}: {takes}")
            elif not 0 <= frame < stop:
                self._add(field, f"must be in [0, {stop - 1}], got {frame}")
            elif frame in seen:
                self._add(field, f"must be a frame that has no image yet, got {frame}")
            seen.add(frame)
        return [
            generation_pb2.ImageCondition(frame_index=condition.frame_index, image_sha256=condition.image_sha256)
            for condition in sorted(conditions, key=lambda condition: condition.frame_index)
        ]

    def _check_transition(self, field: str, segment: generation_pb2.PromptSegment, following: int, stop: int) -> None:
        start, count = segment.start_frame_index, segment.transition_frame_count
        # Where a start is out of order, which is told at the start, the order says nothing about this.
        end = following if start < following < stop else stop
        room = end - start if 1 <= start < stop else stop - 1
        if segment.cut and count:
            self._add(field, f"must be 0, because the segment begins with a cut, got {count}")
        elif not 0 <= count <= room:
            event = "the next segment starts" if end < stop else "the video ends"
            self._add(field, f"must be in [0, {room}] frames, because {event} at frame {end}, got {count}")
