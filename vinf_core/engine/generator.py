"""One generation on one rank: plan, encode, denoise, deal, decode.

Outside, lengths are frames. Inside, up to the decoder, they are latent frames (`FrameGrid`): layouts, latents and
checkpoints count in them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from vinf_core.context.clip_context import ClipContext
from vinf_core.context.install import install
from vinf_core.context.layout import Layout
from vinf_core.context.partition import clips_of, partition
from vinf_core.context.slicing import Slices
from vinf_core.decode.buffers import HostBuffers
from vinf_core.decode.decoder import decode_video
from vinf_core.decode.probe import probe_chunk
from vinf_core.decode.slices import decoder_of
from vinf_core.diffusion.cadence import Checkpointer
from vinf_core.diffusion.checkpoint import CheckpointStore
from vinf_core.diffusion.denoise import denoise
from vinf_core.diffusion.fusion import OverlapFusion
from vinf_core.diffusion.preview import Previewer, PreviewsInFrames, PreviewSink
from vinf_core.distributed.axes import Axes
from vinf_core.distributed.exchange import Exchange
from vinf_core.distributed.topology import Topology
from vinf_core.engine import mesh_clips
from vinf_core.engine.balance import SpeedMeter
from vinf_core.engine.limits import check_spec
from vinf_core.engine.memory import MemoryModel
from vinf_core.engine.texts import Texts
from vinf_core.errors import CheckpointError, GenerationCancelledError, InvalidSpecError, OutputInvalidError
from vinf_core.events import Agreement, FrameSink, Observer, StageClock
from vinf_core.latent_frames import FrameGrid
from vinf_core.models.adapter import VideoModel
from vinf_core.recorder import Recorder
from vinf_core.types import Clip, GenerationSpec, Stage


class Generator:
    """Owns a rank's model and its way to the other ranks; serves generation after generation."""

    def __init__(
        self,
        model: VideoModel,
        topology: Topology,
        exchange: Exchange | Axes,
        clock: StageClock,
        *,
        skip_negligible: bool = False,
        deterministic: bool = False,
    ) -> None:
        """Install clip parallelism in a model.

        Args:
            model: changed in place.
            topology: who this rank is.
            exchange: this rank's; in a mesh, one for each of its axes.
            clock: takes the seconds of each stage.
            skip_negligible: see `Layout.build`; the same on every rank.
            deterministic: let nothing that is measured decide how a generation is computed; the same on every rank.
        """
        self.model = model
        self.topology = topology
        self._skip_negligible = skip_negligible
        self._deterministic = deterministic
        self._axes = exchange if isinstance(exchange, Axes) else Axes.alone(exchange)
        self._clock = clock
        self._context = ClipContext(self._axes.clip, self._axes.context)
        self.memory: MemoryModel | None = None
        """What a generation will need, once it was measured."""
        self.decoded_frames = 0
        """Frames this rank has decoded and handed over since it started; other threads may read it."""
        self.frame_grid = FrameGrid(model.limits.frames_per_latent)
        """Which frames of its videos share a latent frame."""
        self.texts = Texts(model, self._axes.world)
        self._meter = SpeedMeter(clock)
        install(model.unet, model.temporal_sites, self._context, model.framewise_sites)

    def plan(self, spec: GenerationSpec, clips: tuple[Clip, ...] | None = None) -> Layout:
        """Plan a generation; every rank comes to the same clips from the same numbers.

        Args:
            spec: what to generate.
            clips: other than the even ones, in the order of the mesh and in frames.

        Returns:
            The plan in latent frames.

        Raises:
            InvalidSpecError: the model cannot make it, or the clips are not as many as the mesh has, do not cover the
                video or divide a latent frame.
        """
        check_spec(spec, self.model.limits)
        inside = self.frame_grid.spec_in_latents(spec)
        clip_count = self.topology.clip_count
        if not clips:
            clips = partition(inside.frame_count, [1] * clip_count)
        elif len(clips) != clip_count or clips[-1].stop != spec.frame_count:
            raise InvalidSpecError(
                f"clip_frame_counts: {[clip.count for clip in clips]} are not {clip_count} lengths "
                f"that sum to {spec.frame_count}"
            )
        else:
            clips = tuple(self.frame_grid.clip_in_latents(clip) for clip in clips)
        return Layout.build(
            clips,
            self.topology.clip_index,
            inside.scope,
            scenes=inside.scenes,
            skip_negligible=self._skip_negligible,
            position_count=self.model.temporal_sites.position_count,
            joint=bool(self.model.temporal_sites.joint_attentions),
            dtype=self.model.dtype,
            device=self.model.device,
        )

    def latents(
        self,
        generation_id: str,
        spec: GenerationSpec,
        layout: Layout,
        observer: Observer,
        agree: Agreement,
        *,
        checkpoints: CheckpointStore | None = None,
        resume_step: int = 0,
        texts_at_once: int = 0,
        previews: PreviewSink | None = None,
        preview_interval: int = 0,
    ) -> torch.Tensor:
        """Encode the prompts and denoise: the final latents of this rank's clip, ``[f, C, h, w]``.

        Args:
            checkpoints: takes this rank's checkpoints, the last one before this method returns; None: none are taken.
            resume_step: steps done at the checkpoint in ``checkpoints`` to go on from; 0: from the start.
            texts_at_once: see `texts_at_once`.
            previews: takes what some frames of this rank's clip look like meanwhile; None: nobody looks.
            preview_interval: steps from one preview to the next; 0: none are made.

        Raises:
            GenerationCancelledError, OutOfStepError: raised by ``agree``, on every rank alike.
            OutputInvalidError: on every rank alike.
            CheckpointError: the checkpoint to go on from is damaged or of another specification.
        """
        resume = checkpointer = None
        # Of the ranks that hold a clip together, one keeps and shows it.
        kept = layout.clip if self.topology.is_leader else Clip(layout.clip.start, 0)
        if checkpoints is None:
            if resume_step:
                raise CheckpointError(f"resume_step: {resume_step}, but there is no store to fetch it from")
        else:
            # A rank with an empty clip walks along with frame 0.
            resume = checkpoints.fetch(resume_step, layout.clip.frames or range(1)) if resume_step else None
            video_frames = layout.clips[-1].stop
            checkpointer = Checkpointer(
                checkpoints, self._clock, kept, newest_step=resume_step, video_frames=video_frames
            )
        previewer = None
        if previews is not None and preview_interval and kept.count and self.model.preview_map is not None:
            sink = PreviewsInFrames(previews, self.frame_grid)
            previewer = Previewer(sink, self.model.preview_map, layout.clip, interval=preview_interval)
        try:
            self._axes.begin_generation()
            self._context.begin_generation(layout)
            self.model.begin(spec, layout.clip.frames or range(1))
            observer.progress(generation_id, Stage.TEXT, resume_step, 0.0)
            inside, fusion = self.frame_grid.spec_in_latents(spec), self._fusion(spec)
            with self._clock.measure(Stage.TEXT):
                text = self.texts.encode(inside, layout.clip.frames if fusion is None else fusion.frames)
            self._clock.settle()
            observer.progress(generation_id, Stage.DENOISE, resume_step, 0.0)
            computed_frames = layout.clip.count if fusion is None else fusion.computed_frames
            values = computed_frames * math.prod(self.model.latent_shape(spec.width, spec.height))
            self._meter.begin_generation()

            def on_step(step: int, seconds: float) -> None:
                observer.progress(generation_id, Stage.DENOISE, step, seconds)
                self._meter.step_ended(values)

            latents = denoise(
                self.model,
                self._context,
                inside,
                text,
                clock=self._clock,
                agree=agree,
                on_step=on_step,
                resume=resume,
                checkpointer=checkpointer,
                previewer=previewer,
                texts_at_once=self.texts_at_once(spec, layout, texts_at_once),
                cfg_axis=self._axes.cfg,
                fusion=fusion,
            )
        finally:
            self._context.end_generation()
        agree(invalid=not bool(latents.isfinite().all()))
        return latents

    def texts_at_once(self, spec: GenerationSpec, layout: Layout, asked: int = 0) -> int:
        """Say how many texts a step runs together: 2 halves of the guidance, or 1 at a time; on every rank the same.

        Ranks that share the guidance run one each, to the bits of one at a time.

        Args:
            spec: what is generated.
            layout: its plan.
            asked: what the generation was started with, which decides about its last bits; 0: choose.
        """
        texts = 2 if spec.guided and self._axes.cfg.topology.world_size == 1 else 1
        if asked:
            return min(asked, texts)
        if self._deterministic:
            return 1  # fits wherever the generation does; what the start-up measures differs from start to start
        if self.memory is None:
            return texts
        # Ranks exchange alike, so all do as the longest clip must. The memory model counts whole latent frames.
        each = self.frame_grid.frames_per_latent
        longest = each * max(clip.count for clip in layout.clips)
        seen = spec.scope.local_window_frames + spec.scope.global_frames
        # Whoever owns an overlapping window computes all of it, however short the clip, and no more.
        if spec.scope.overlap_frames:
            longest, seen = max(longest, each * min(layout.clips[-1].stop, self._window_latents)), 0
        context = min(each * layout.clips[-1].stop - longest, seen)
        return self.memory.texts_at_once(longest, spec.width * spec.height, texts, context_frames=context)

    def _fusion(self, spec: GenerationSpec) -> OverlapFusion | None:
        if not spec.scope.overlap_frames:
            return None
        return OverlapFusion(
            self.model,
            self._context,
            self.frame_grid.scope_in_latents(spec.scope),
            self._window_latents,
            begin_window=lambda window: self.model.begin(spec, window),
        )

    @property
    def _window_latents(self) -> int:
        """Latent frames of an overlapping window: as many as the model was trained on."""
        return self.frame_grid.latent_count(self.model.limits.trained_frame_count)

    def generate(
        self,
        generation_id: str,
        spec: GenerationSpec,
        *,
        observer: Observer,
        open_sink: Callable[[str], FrameSink],
        agree: Agreement,
        clips: tuple[Clip, ...] | None = None,
        checkpoints: CheckpointStore | None = None,
        resume_step: int = 0,
        texts_at_once: int = 0,
        first_frame: int = 0,
        previews: PreviewSink | None = None,
        preview_interval: int = 0,
    ) -> None:
        """Make the video; every rank calls it with the same arguments, and returns when its frames are delivered.

        Args:
            generation_id: of the generation.
            spec: what to make.
            observer: hears how it goes.
            open_sink: makes the sink for this rank's frames.
            agree: with the other ranks.
            clips: see `plan`.
            checkpoints, resume_step, texts_at_once, previews, preview_interval: see `latents`.
            first_frame: see `decode_video`.

        Raises:
            GenerationCancelledError, OutputInvalidError, InvalidSpecError: on every rank alike; the group can go on.
        """
        try:
            layout = self.plan(spec, clips)
            texts_at_once = self.texts_at_once(spec, layout, texts_at_once)
            clips_of_ranks = mesh_clips.clips_of_ranks(layout.clips, self.topology.mesh)
            observer.started(generation_id, tuple(map(self.frame_grid.clip_in_frames, clips_of_ranks)), texts_at_once)
            latents = self.latents(
                generation_id,
                spec,
                layout,
                observer,
                agree,
                checkpoints=checkpoints,
                resume_step=resume_step,
                texts_at_once=texts_at_once,
                previews=previews,
                preview_interval=preview_interval,
            )
            observer.progress(generation_id, Stage.DECODE, spec.step_count, 0.0)
            sink = open_sink(generation_id)
            try:
                decode_video(
                    self.model,
                    latents if self.topology.is_leader else latents[:0],
                    clips_of_ranks,
                    self.topology,
                    self._axes.world,
                    buffers=HostBuffers(self.model.device, frames=self._chunk_frames),
                    clock=self._clock,
                    agree=agree,
                    sink=sink,
                    on_frames=self._count_frames,
                    frame_grid=self.frame_grid,
                    first_frame=first_frame,
                )
            except (GenerationCancelledError, OutputInvalidError):
                sink.abandon()
                raise
            self._clock.settle()
        finally:
            self.model.end()

    @property
    def speed(self) -> int:
        """See `SpeedMeter.speed`."""
        return self._meter.speed

    @property
    def steps(self) -> tuple[int, float]:
        """See `SpeedMeter.steps`."""
        return self._meter.steps

    @property
    def _chunk_frames(self) -> int:
        """Frames that are decoded together at most."""
        return decoder_of(self.model).grid.latents * self.frame_grid.frames_per_latent

    def _count_frames(self, count: int) -> None:
        self.decoded_frames += count

    def warm_up(self) -> None:
        """Set up the data groups' communicators before any timed command."""
        self._axes.barrier()

    @property
    def recorder(self) -> Recorder:
        """What this rank does, span by span, while a generation is recorded."""
        return self._clock.recorder

    @property
    def slices(self) -> Slices:
        """How much the denoiser computes at once."""
        return self._context.slices

    @torch.inference_mode()
    def probe_text(self) -> None:
        """Encode a text where texts are encoded: on every rank, or on rank 0 alone."""
        self.texts.probe()

    @torch.inference_mode()
    def probe(self, clip_frames: int) -> None:
        """Run the denoiser once on ``clip_frames`` frames a clip, one text; every rank calls it at the same place.

        The text is encoded in the first call and kept: what encoding takes does not show in later ones.

        Args:
            clip_frames: a multiple of the frames of a latent frame.
        """
        model, each = self.model, self.frame_grid.frames_per_latent
        latent_frames = clip_frames // each
        layout = Layout.build(
            clips_of([latent_frames] * self.topology.clip_count),
            self.topology.clip_index,
            self.frame_grid.scope_in_latents(model.limits.default_scope),
            position_count=model.temporal_sites.position_count,
            joint=bool(model.temporal_sites.joint_attentions),
            dtype=model.dtype,
            device=model.device,
        )
        shape = model.latent_shape(model.limits.default_width, model.limits.default_height)
        self._context.begin_generation(layout)
        try:
            self._context.begin_step(0.0)
            text = self.texts.nothing()
            if model.limits.takes_story:  # one a frame, as a story has it: the dearest kind
                text = text.repeat(1, latent_frames, 1, 1)
            model.predict(torch.zeros(latent_frames, *shape, device=model.device, dtype=model.dtype), 0.0, text)
        finally:
            self._context.end_generation()

    @torch.inference_mode()
    def probe_decode(self) -> None:
        """Decode one chunk, the dearest kind."""
        limits = self.model.limits
        shape = self.model.latent_shape(limits.default_width, limits.default_height)
        probe_chunk(decoder_of(self.model), shape, self.model.device)

    def settle(self) -> None:
        """Wait until the device has done what it was asked to."""
        self._clock.settle()
