"""One generation on one rank: plan, encode, denoise, deal, decode."""

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
from vinf_core.decode.levels import to_levels
from vinf_core.decode.slices import SLICE_FRAMES
from vinf_core.diffusion.cadence import Checkpointer
from vinf_core.diffusion.checkpoint import CheckpointStore
from vinf_core.diffusion.denoise import denoise
from vinf_core.diffusion.preview import Previewer, PreviewSink
from vinf_core.diffusion.timeline import ClipTimeline
from vinf_core.distributed.exchange import Exchange
from vinf_core.distributed.topology import Topology
from vinf_core.engine.balance import SpeedMeter
from vinf_core.engine.limits import check_spec
from vinf_core.engine.memory import MemoryModel
from vinf_core.engine.prompt_cache import PromptCache
from vinf_core.errors import CheckpointError, GenerationCancelledError, InvalidSpecError, OutputInvalidError
from vinf_core.events import Agreement, FrameSink, Observer, StageClock
from vinf_core.models.adapter import VideoModel
from vinf_core.recorder import Recorder
from vinf_core.types import Clip, GenerationSpec, Stage


class Generator:
    """Owns a rank's model and its way to the other ranks; serves generation after generation."""

    def __init__(
        self,
        model: VideoModel,
        topology: Topology,
        exchange: Exchange,
        clock: StageClock,
        *,
        skip_negligible: bool = False,
        deterministic: bool = False,
    ) -> None:
        """Install clip parallelism in a model.

        Args:
            model: changed in place.
            topology: who this rank is.
            exchange: this rank's.
            clock: takes the seconds of each stage.
            skip_negligible: see `Layout.build`; the same on every rank.
            deterministic: let nothing that is measured decide how a generation is computed; the same on every rank.
        """
        self.model = model
        self.topology = topology
        self._skip_negligible = skip_negligible
        self._deterministic = deterministic
        self._exchange = exchange
        self._clock = clock
        self._context = ClipContext(exchange)
        self.memory: MemoryModel | None = None
        """What a generation will need, once it was measured."""
        self.decoded_frames = 0
        """Frames this rank has decoded and handed over since it started; other threads may read it."""
        self.prompt_cache = PromptCache(model.encode_text)
        """Embeddings kept across generations; other threads may read its counts."""
        self._meter = SpeedMeter(clock)
        install(model.unet, model.temporal_sites, self._context, model.framewise_sites)

    def plan(self, spec: GenerationSpec, clips: tuple[Clip, ...] | None = None) -> Layout:
        """Plan a generation; every rank comes to the same clips from the same numbers.

        Args:
            spec: what to generate.
            clips: other than the even ones, in rank order.

        Raises:
            InvalidSpecError: the model cannot make it, or the clips are not one a rank or do not cover the video.
        """
        check_spec(spec, self.model.limits)
        clips = clips or partition(spec.frame_count, [1] * self.topology.world_size)
        if len(clips) != self.topology.world_size or clips[-1].stop != spec.frame_count:
            raise InvalidSpecError(
                f"clip_frame_counts: {[clip.count for clip in clips]} are not {self.topology.world_size} lengths "
                f"that sum to {spec.frame_count}"
            )
        return Layout.build(
            clips,
            self.topology.rank,
            spec.scope,
            scenes=spec.scenes,
            skip_negligible=self._skip_negligible,
            position_count=self.model.temporal_sites.position_count,
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
        if checkpoints is None:
            if resume_step:
                raise CheckpointError(f"resume_step: {resume_step}, but there is no store to fetch it from")
        else:
            # A rank with an empty clip walks along with frame 0.
            resume = checkpoints.fetch(resume_step, layout.clip.frames or range(1)) if resume_step else None
            checkpointer = Checkpointer(checkpoints, self._clock, layout.clip, newest_step=resume_step)
        previewer = None
        if previews is not None and preview_interval and layout.clip.count and self.model.preview_map is not None:
            previewer = Previewer(previews, self.model.preview_map, layout.clip, interval=preview_interval)
        self._context.begin_generation(layout)
        self.model.begin(spec)
        try:
            observer.progress(generation_id, Stage.TEXT, resume_step, 0.0)
            with self._clock.measure(Stage.TEXT):
                text = self.text(spec, layout.clip)
            self._clock.settle()
            observer.progress(generation_id, Stage.DENOISE, resume_step, 0.0)
            values = layout.clip.count * math.prod(self.model.latent_shape(spec.width, spec.height))
            self._meter.begin_generation()

            def on_step(step: int, seconds: float) -> None:
                observer.progress(generation_id, Stage.DENOISE, step, seconds)
                self._meter.step_ended(values)

            latents = denoise(
                self.model,
                self._context,
                spec,
                text,
                clock=self._clock,
                agree=agree,
                on_step=on_step,
                resume=resume,
                checkpointer=checkpointer,
                previewer=previewer,
                texts_at_once=self.texts_at_once(spec, layout, texts_at_once),
            )
        finally:
            self._context.end_generation()
        agree(invalid=not bool(latents.isfinite().all()))
        return latents

    def texts_at_once(self, spec: GenerationSpec, layout: Layout, asked: int = 0) -> int:
        """Say how many texts a step runs together: 2 halves of the guidance, or 1 at a time; on every rank the same.

        Args:
            spec: what is generated.
            layout: its plan.
            asked: what the generation was started with, which decides about its last bits; 0: choose.
        """
        texts = 2 if spec.guided else 1
        if asked:
            return min(asked, texts)
        if self._deterministic:
            return 1  # fits wherever the generation does; what the start-up measures differs from start to start
        if self.memory is None:
            return texts
        longest = max(clip.count for clip in layout.clips)  # ranks exchange alike, so all do as the longest must
        scope = spec.scope
        context = min(spec.frame_count - longest, scope.local_window_frames + scope.global_frames)
        return self.memory.texts_at_once(longest, spec.width * spec.height, texts, context_frames=context)

    def text(self, spec: GenerationSpec, clip: Clip) -> torch.Tensor:
        """Encode what a clip's frames see: ``[B, f or 1, tokens, dim]`` as `denoise` takes it."""
        # An empty clip denoises one idle frame, frame 0, which sees the first prompt.
        timeline = ClipTimeline.build(spec.prompt, spec.segments, clip.frames or range(1))
        # Each prompt once, the negative one too, which may be one of the others.
        wanted = dict.fromkeys([*timeline.prompts, spec.negative_prompt] if spec.guided else timeline.prompts)
        embeddings = dict(zip(wanted, self.prompt_cache.embed(wanted), strict=True))
        return timeline.embed(
            [embeddings[prompt] for prompt in timeline.prompts],
            embeddings[spec.negative_prompt] if spec.guided else None,
        )

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
        layout = self.plan(spec, clips)
        texts_at_once = self.texts_at_once(spec, layout, texts_at_once)
        observer.started(generation_id, layout.clips, texts_at_once)
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
                latents,
                layout.clips,
                self.topology,
                self._exchange,
                buffers=HostBuffers(self.model.device),
                clock=self._clock,
                agree=agree,
                sink=sink,
                on_frames=self._count_frames,
                first_frame=first_frame,
            )
        except (GenerationCancelledError, OutputInvalidError):
            sink.abandon()
            raise
        self._clock.settle()

    @property
    def speed(self) -> int:
        """See `SpeedMeter.speed`."""
        return self._meter.speed

    @property
    def steps(self) -> tuple[int, float]:
        """See `SpeedMeter.steps`."""
        return self._meter.steps

    def _count_frames(self, count: int) -> None:
        self.decoded_frames += count

    def warm_up(self) -> None:
        """Set up the data group's communicator before any timed command."""
        self._exchange.barrier()

    @property
    def recorder(self) -> Recorder:
        """What this rank does, span by span, while a generation is recorded."""
        return self._clock.recorder

    @property
    def slices(self) -> Slices:
        """How much the denoiser computes at once."""
        return self._context.slices

    @torch.inference_mode()
    def probe(self, clip_frames: int) -> None:
        """Run the denoiser once on ``clip_frames`` frames a rank, one text; every rank calls it at the same place."""
        model = self.model
        clips = clips_of([clip_frames] * self.topology.world_size)
        layout = Layout.build(
            clips,
            self.topology.rank,
            model.limits.default_scope,
            position_count=model.temporal_sites.position_count,
            dtype=model.dtype,
            device=model.device,
        )
        shape = model.latent_shape(model.limits.default_width, model.limits.default_height)
        self._context.begin_generation(layout)
        try:
            self._context.begin_step(0.0)
            # One a frame, as a story has it: the dearest kind.
            text = model.encode_text([""])[None].repeat(1, clip_frames, 1, 1)
            model.predict(torch.zeros(clip_frames, *shape, device=model.device, dtype=model.dtype), 0.0, text)
        finally:
            self._context.end_generation()

    @torch.inference_mode()
    def probe_decode(self) -> None:
        """Decode one slice."""
        shape = self.model.latent_shape(self.model.limits.default_width, self.model.limits.default_height)
        to_levels(self.model.decode(torch.zeros(SLICE_FRAMES, *shape, device=self.model.device)))

    def settle(self) -> None:
        """Wait until the device has done what it was asked to."""
        self._clock.settle()
