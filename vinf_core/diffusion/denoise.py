"""The denoising loop of one rank: its own frames, step by step, in agreement with the others."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from vinf_core.context.clip_context import ClipContext
from vinf_core.context.key_frames import KeyFrames
from vinf_core.diffusion.cadence import Checkpointer
from vinf_core.diffusion.checkpoint import Checkpoint, restore
from vinf_core.diffusion.fusion import OverlapFusion
from vinf_core.diffusion.noise import initial_noise
from vinf_core.diffusion.preview import Previewer, clean_estimate
from vinf_core.diffusion.schedule import make_scheduler
from vinf_core.distributed.exchange import Exchange
from vinf_core.errors import CheckpointError, GenerationCancelledError
from vinf_core.events import Agreement, Boundary, StageClock, Verdict
from vinf_core.latent_frames import FrameGrid
from vinf_core.models.adapter import VideoModel
from vinf_core.types import GenerationSpec, GlobalChoice, Stage


@torch.inference_mode()
def denoise(
    model: VideoModel,
    context: ClipContext,
    spec: GenerationSpec,
    text: torch.Tensor,
    *,
    clock: StageClock,
    agree: Agreement,
    on_step: Callable[[int, float], None],
    resume: Checkpoint | None = None,
    checkpointer: Checkpointer | None = None,
    previewer: Previewer | None = None,
    texts_at_once: int = 2,
    cfg_axis: Exchange | None = None,
    fusion: OverlapFusion | None = None,
) -> torch.Tensor:
    """Turn noise into the latents of this rank's clip.

    Args:
        model: its UNet carries the clip-parallel modules that read ``context``.
        context: has taken up this generation's layout.
        spec: what to generate, in latent frames.
        text: ``[B, f or 1, rows, dim]``: one a frame of the clip, or one for all of them; B = 2 (negative prompt
            first) with guidance, else 1.
        clock: credits the time.
        agree: called before every step on every rank alike; raises to end the loop on all of them.
        on_step: told (steps done, seconds of the step) after every step.
        resume: where to go on: this rank's frames, or frame 0 for an empty clip; None begins with noise.
        texts_at_once: how many of the B texts are computed together; fewer take less memory and more messages.
        checkpointer: takes checkpoints between steps when the ranks agree to, and one after the last step.
        previewer: shows what becomes of some frames; changes nothing.
        cfg_axis: with the rank that computes the other half of the guidance; each computes one text, and both get both
            predictions. None, or an axis of one rank: this rank computes all texts.
        fusion: predicts the clip from overlapping windows instead of as a whole; ``text`` is then that of its frames.

    Returns:
        ``[f, C, h, w]``, float32 or better: rounding the solver's state to half precision at each step would add up.

    Raises:
        CheckpointError: ``resume`` is of another specification.
        GenerationCancelledError: the ranks agreed to stop; when they were to save first, the checkpoint is stored.
        OutputInvalidError: what was to be saved is not finite; on every rank alike.
    """
    clip = context.layout.clip
    chooses = spec.scope.global_choice is GlobalChoice.KEY_FRAMES and fusion is None
    key_frames = KeyFrames(context, model.dtype) if chooses else None
    scheduler = make_scheduler(spec.solver, model.scheduler_config, spec.step_count, model.latent_scale)
    # A rank with an empty clip walks along with one idle frame: every rank joins every reduction of every call.
    frames = clip.frames or range(1)
    shape = model.latent_shape(spec.width, spec.height)
    exact = torch.promote_types(model.dtype, torch.float32)
    latents: torch.Tensor
    if resume is None:
        trained = FrameGrid(model.limits.frames_per_latent).latent_of(model.limits.trained_frame_count - 1) + 1
        latents = initial_noise(spec, frames, shape, trained).to(model.device, exact)
        latents = latents * scheduler.init_noise_sigma
    else:
        _check_resume(resume, frames, shape, exact)
        latents = restore(scheduler, resume, model.device)
        if key_frames is not None:
            key_frames.resume(resume.are_key_frames)
    first = resume.completed_steps if resume else 0
    if cfg_axis is not None and (cfg_axis.topology.world_size == 1 or not spec.guided):
        cfg_axis = None
    if cfg_axis is not None:
        text = text[cfg_axis.topology.rank :][:1]
    for index, timestep in enumerate(scheduler.timesteps[first:], first):
        verdict = agree(save=checkpointer is not None and checkpointer.can_save(index), boundary=Boundary.STEP)
        if checkpointer is not None and verdict == Verdict.SAVE:
            checkpointer.save(scheduler, latents, index, agree, key_frames)
        if verdict == Verdict.SUSPEND:
            if checkpointer is not None:
                checkpointer.finish(scheduler, latents, index, agree, key_frames)
            raise GenerationCancelledError(f"suspended after step {index}")
        started = time.perf_counter()
        with clock.measure(Stage.DENOISE, "step", step=index + 1):
            context.begin_step(float(timestep))
            model_input = scheduler.scale_model_input(latents, timestep).to(model.dtype)
            predictions = [
                fusion.predict(model_input, float(timestep), part)
                if fusion is not None
                else model.predict(model_input.repeat(part.shape[0], 1, 1, 1), float(timestep), part).to(exact)
                for part in torch.split(text, texts_at_once)
            ]
            if cfg_axis is not None:
                predictions = cfg_axis.gather(predictions[0])
            prediction = predictions[0] if len(predictions) == 1 else torch.cat(predictions)
            if spec.guided:
                without, with_prompt = prediction.chunk(2)
                prediction = without + spec.guidance_scale * (with_prompt - without)
            step = scheduler.step(prediction, timestep, latents)
            latents = step.prev_sample
            if key_frames is not None and index + 1 < spec.step_count:
                key_frames.step_ended(index + 1, clean_estimate(scheduler, step))
            if previewer is not None:
                previewer.step_ended(index + 1, clean_estimate(scheduler, step))
        # The only wait for a GPU but for those of a choice of key frames and, in the first step, of a 3-D transformer's
        # tables and text lengths: between steps, so that cancelling takes effect within one.
        clock.settle()
        on_step(index + 1, time.perf_counter() - started)
    if checkpointer is not None:
        checkpointer.finish(scheduler, latents, spec.step_count, agree, key_frames)
    return latents[: clip.count].to(exact)


def _check_resume(resume: Checkpoint, frames: range, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    found = (resume.start_frame, tuple(resume.latents.shape), resume.latents.dtype)
    expected = (frames.start, (len(frames), *shape), dtype)
    if found != expected:
        raise CheckpointError(f"resume: (first frame, shape, dtype) is {found}, the generation has {expected}")
