"""The loop around the generator: rank 0 takes orders and commands, every rank runs the commands."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Protocol

from vinf_core.diffusion.checkpoint import CheckpointStore
from vinf_core.diffusion.preview import PreviewSink
from vinf_core.distributed.control import ControlPlane
from vinf_core.engine.balance import RankWeights, choose_clips
from vinf_core.engine.commands import Command, Generate, Stop
from vinf_core.engine.generator import Generator
from vinf_core.engine.mesh_clips import clips_of_mesh
from vinf_core.engine.probe import peak_memory, reset_peak_memory
from vinf_core.errors import GenerationCancelledError, InvalidSpecError, OutputInvalidError
from vinf_core.events import Boundary, FrameSink, Observer, StopWish, Verdict
from vinf_core.recorder import Lane, Recorder
from vinf_core.types import Clip, Stage

IDLE_BEAT_SECONDS = 1.0
"""Longest rank 0 waits for an order before the ranks beat together: how soon a dead peer is noticed while idle."""


class Outcome(StrEnum):
    """How a generation ended."""

    SUCCEEDED = "succeeded"
    CANCELLED = "cancelled"
    FAILED = "failed"


class Coordinator(Observer, Protocol):
    """Rank 0's side of the outside world: orders come from it, news goes to it."""

    def next_order(self, timeout: float) -> Command | None:
        """Wait up to ``timeout`` seconds for the next order."""

    def stop_wish(self, generation_id: str) -> StopWish:
        """Whether the generation in hand shall stop, and how."""

    def finished(
        self, generation_id: str, outcome: Outcome, reason: str, message: str, peak_memory_bytes: list[int]
    ) -> None:
        """A generation ended."""


class TraceSink(Protocol):
    """Carries the spans of one generation away while it is made, beside the engine's thread."""

    def close(self) -> None:
        """Carry away what is left; called between generations, and waits for no longer than a second or two."""


class _Silent:
    """The observer of ranks other than 0."""

    def started(self, generation_id: str, clips: tuple[Clip, ...], texts_at_once: int) -> None: ...

    def progress(self, generation_id: str, stage: Stage, completed_steps: int, step_seconds: float) -> None: ...


class Worker:
    """Runs commands on one rank until told to stop. Any error but a cancelled or failed generation ends the process."""

    def __init__(
        self,
        generator: Generator,
        control: ControlPlane,
        open_sink: Callable[[str], FrameSink],
        coordinator: Coordinator | None,
        *,
        open_checkpoints: Callable[[str], CheckpointStore] | None = None,
        open_previews: Callable[[str], PreviewSink] | None = None,
        open_trace: Callable[[str, Recorder], TraceSink] | None = None,
        rank_weights: RankWeights = "even",
    ) -> None:
        """Make the worker of a rank.

        Args:
            generator: this rank's.
            control: this rank's.
            open_sink: makes the sink for a generation's frames.
            coordinator: on rank 0 the source of orders, None elsewhere.
            open_checkpoints: makes the store for a generation's checkpoints; None: none are taken.
            open_previews: makes the sink for a generation's previews; None: none are made.
            open_trace: carries away what the recorder records of a generation; None: nothing is recorded.
            rank_weights: what the clips' lengths go by.
        """
        self._generator = generator
        self._control = control
        self._open_sink = open_sink
        self._coordinator = coordinator
        self._open_checkpoints = open_checkpoints
        self._open_previews = open_previews
        self._open_trace = open_trace
        self._rank_weights = rank_weights
        self._observer: Observer = coordinator or _Silent()

    def serve(self) -> None:
        """Take commands until Stop."""
        while True:
            order = self._coordinator.next_order(IDLE_BEAT_SECONDS) if self._coordinator else None
            command = self._control.tick(order)
            if isinstance(command, Stop):
                return
            if isinstance(command, Generate):
                self._generate(command)

    def _generate(self, command: Generate) -> None:
        recorder, trace = self._generator.recorder, None
        if self._open_trace is not None:
            recorder.begin()
            trace = self._open_trace(command.generation_id, recorder)
        outcome, reason, message = self._outcome(command)
        recorder.end()
        if trace is not None:
            # Before the last word about the generation, so that its trace is there when it has succeeded.
            trace.close()
        peaks = self._control.gather(peak_memory(self._generator.topology.device))
        if self._coordinator:
            self._coordinator.finished(command.generation_id, outcome, reason, message, peaks)

    def _outcome(self, command: Generate) -> tuple[Outcome, str, str]:
        """Make the video; return how that ended, with a reason and a message where it failed."""
        reset_peak_memory(self._generator.topology.device)

        def agree(
            ready: bool = True, *, save: bool = False, invalid: bool = False, boundary: Boundary = Boundary.DECODE
        ) -> Verdict:
            stop = self._coordinator.stop_wish(command.generation_id) if self._coordinator else StopWish.NONE
            with self._generator.recorder.host(Lane.WAIT, "agree"):
                return self._control.agree(ready, save=save, invalid=invalid, boundary=boundary, stop=stop)

        try:
            self._generator.generate(
                command.generation_id,
                command.spec,
                observer=self._observer,
                open_sink=self._open_sink,
                agree=agree,
                clips=self._clips(command),
                checkpoints=self._open_checkpoints(command.generation_id) if self._open_checkpoints else None,
                resume_step=command.resume_step,
                texts_at_once=command.texts_at_once,
                first_frame=command.first_frame,
                previews=self._open_previews(command.generation_id) if self._open_previews else None,
                preview_interval=command.preview_interval,
            )
        except GenerationCancelledError:
            return Outcome.CANCELLED, "", ""
        except OutputInvalidError as error:
            return Outcome.FAILED, "OUTPUT_INVALID", str(error)
        except InvalidSpecError as error:
            # Raised while planning, on every rank from the same numbers.
            return Outcome.FAILED, "INVALID_FIELD", str(error)
        return Outcome.SUCCEEDED, "", ""

    def _clips(self, command: Generate) -> tuple[Clip, ...]:
        """The clips of the mesh: those that the generation was started with, new ones where those fit another mesh."""
        mesh = self._generator.topology.mesh
        counts = command.clip_frame_counts
        if counts and len(counts) != self._control.world_size:
            raise InvalidSpecError(f"clip_frame_counts: {list(counts)} are not {self._control.world_size} lengths")
        grid = self._generator.frame_grid
        clips = clips_of_mesh(counts, mesh, grid) if counts else None
        if clips is not None:
            return clips
        latent_frames = choose_clips(
            self._rank_weights,
            grid.latent_count(command.spec.frame_count),
            speed=self._generator.speed,
            control=self._control,
            mesh=mesh,
        )
        return tuple(map(grid.clip_in_frames, latent_frames))
