"""Stages 2 and 3: train the denoiser and the text encoder, first on single frames, then on clips."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, TextToVideoSDPipeline, UNet3DConditionModel
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from numpy.typing import NDArray
from torch import nn
from transformers import CLIPTokenizer

from training.sprites import world
from training.sprites.models import MAX_WORDS
from training.sprites.progress import Progress
from training.sprites.team import Team


@dataclass(frozen=True)
class Plan:
    """Sizes of the two stages."""

    frame_steps: int
    """Steps on single frames; the temporal modules are bypassed."""
    clip_steps: int
    """Steps on clips; everything is trained."""
    peak_rate: float
    batch_frames: int = 64
    """Frames of a batch of the whole team."""
    lengths: tuple[tuple[int, float], ...] = ((1, 0.20), (4, 0.05), (8, 0.05), (16, 0.60), (32, 0.10))
    """Frames of a sample and share of the clip steps that take so many; the number of frames of a batch stays the
    same. Short ones bring more captions a step, from which the words are learned; long ones because the model
    must bear more frames in its temporal attention than a clip has: the engine adds frames of other clips."""
    caption_dropout: float = 0.12
    """Share of samples trained with the empty caption, which guidance contrasts with."""
    decay_from: float = 0.8
    """Share of all steps after which the learning rate falls in a straight line."""

    @property
    def steps(self) -> int:
        """All steps."""
        return self.frame_steps + self.clip_steps

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        fall = (1.0 - step / self.steps) / (1.0 - self.decay_from)
        return self.peak_rate * min(1.0, (step + 1) / 150.0, 0.01 + 0.99 * fall)


@dataclass
class Captions:
    """Token numbers of every caption of every training combination."""

    tokenizer: CLIPTokenizer
    table: torch.Tensor = field(init=False)
    empty: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        phrasings = range(len(world.PHRASINGS))
        self.table = torch.stack(
            [self._tokens([spec.caption(n) for n in phrasings]) for spec in world.training_specs()]
        )
        self.empty = self._tokens([""])[0]

    def _tokens(self, captions: list[str]) -> torch.Tensor:
        tokenizer: Any = self.tokenizer
        found = tokenizer(captions, padding="max_length", max_length=MAX_WORDS, truncation=True, return_tensors="pt")
        return torch.as_tensor(found.input_ids)

    def draw(self, specs: NDArray[np.int64], dropout: float, rng: np.random.Generator) -> torch.Tensor:
        """Draw a caption for each spec, ``[B, 16]``: half of the time the canonical one, now and then none."""
        phrasing = np.where(rng.random(len(specs)) < 0.5, 0, rng.integers(1, len(world.PHRASINGS), len(specs)))
        tokens = self.table[torch.from_numpy(specs), torch.from_numpy(phrasing)].clone()
        tokens[torch.from_numpy(rng.random(len(specs)) < dropout)] = self.empty
        return tokens


class Average:
    """Exponential moving average of weights, quick at first."""

    def __init__(self, parameters: list[nn.Parameter], longest: float = 0.998) -> None:
        self.parameters = parameters
        self.longest = longest
        self.values = [parameter.detach().clone() for parameter in parameters]
        self.count = 0

    @torch.no_grad()
    def update(self) -> None:
        """Take the present weights in."""
        self.count += 1
        keep = min(self.longest, (1 + self.count) / (10 + self.count))
        torch._foreach_lerp_(self.values, [p.detach() for p in self.parameters], 1.0 - keep)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the present weights and the average; a second call exchanges them back."""
        for parameter, value in zip(self.parameters, self.values, strict=True):
            present = parameter.detach().clone()
            parameter.copy_(value)
            value.copy_(present)


def bypass_time(unet: UNet3DConditionModel, *, bypass: bool) -> None:
    """Make the temporal modules pass their input on (single frames), or take them back into use."""
    for module in unet.modules():
        kind = type(module).__name__
        if kind not in ("TemporalConvLayer", "TransformerTemporalModel"):
            continue
        module.__dict__.pop("forward", None)
        if bypass and kind == "TemporalConvLayer":
            module.__dict__["forward"] = lambda hidden, **_: hidden
        elif bypass:
            module.__dict__["forward"] = lambda hidden, **_: (hidden,)


def train_denoiser(
    pipeline: TextToVideoSDPipeline,
    latents: NDArray[np.float16],
    specs: NDArray[np.int64],
    plan: Plan,
    *,
    team: Team,
    seed: int,
    state: Path,
    export: Callable[[], None],
    export_every: int = 400,
) -> list[tuple[int, float, str]]:
    """Train UNet and text encoder in place; the pipeline ends up with the averaged weights.

    Args:
        pipeline: Its UNet and text encoder are trained.
        latents: Scaled latent videos, ``[N, F, 4, 8, 8]``, F at least two clips long.
        specs: Index of each video's training combination, ``[N]``.
        plan: Sizes.
        team: The processes that share each batch.
        seed: Of data order, noise and captions.
        state: Where the resumable scratch state is kept.
        export: Called with the averaged weights in place.
        export_every: Steps between exports.

    Returns:
        The history: (step, loss averaged over 20 steps, stage).
    """
    unet, text_encoder = pipeline.unet, pipeline.text_encoder
    alphas = _alphas(pipeline.scheduler)
    captions = Captions(pipeline.tokenizer)
    team.share_weights(unet)
    team.share_weights(text_encoder)
    parameters = [*unet.parameters(), *text_encoder.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=plan.peak_rate, betas=(0.9, 0.99), weight_decay=1e-3)
    average = Average(parameters)
    history: list[tuple[int, float, str]] = []
    first = 0
    if state.exists():
        saved = torch.load(state, weights_only=False)
        unet.load_state_dict(saved["unet"])
        text_encoder.load_state_dict(saved["text_encoder"])
        optimiser.load_state_dict(saved["optimiser"])
        average.values, average.count = saved["average"], saved["count"]
        first, history = saved["step"], saved["history"]
    rng = np.random.default_rng([seed, team.rank, first])
    unet.train()
    text_encoder.train()
    for module in unet.modules():
        if isinstance(module, nn.Dropout):  # the stock temporal convolutions drop 10 % in training
            module.p = 0.0
    # On CPUs the fused attention is slow backwards in bf16; the plain one computes the same.
    unet.set_attn_processor(AttnProcessor())
    progress = Progress("denoiser", plan.steps, done=first)
    recent: list[float] = []
    for step in range(first, plan.steps):
        single = step < plan.frame_steps
        if step in (first, plan.frame_steps):
            bypass_time(unet, bypass=single)
        for group in optimiser.param_groups:
            group["lr"] = plan.rate(step)
        clean, which = _draw(latents, specs, plan, single, team.size, rng)
        loss = _loss(unet, text_encoder, clean, captions.draw(which, plan.caption_dropout, rng), alphas, rng)
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        team.average_gradients(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        average.update()
        recent = [*recent[-99:], float(loss.detach())]
        if (step + 1) % 20 == 0:
            history.append((step + 1, float(np.mean(recent[-20:])), "frames" if single else "clips"))
        if not team.leads:
            continue
        progress.tell(step + 1, loss=float(np.mean(recent)))
        if (step + 1) % export_every == 0 or step + 1 == plan.steps:
            _save(state, unet, text_encoder, optimiser, average, step + 1, history)
            average.swap()
            export()
            average.swap()
    bypass_time(unet, bypass=False)
    unet.set_attn_processor(AttnProcessor2_0())
    average.swap()
    unet.eval()
    text_encoder.eval()
    return history


def _alphas(scheduler: DDIMScheduler) -> torch.Tensor:
    return torch.as_tensor(scheduler.alphas_cumprod, dtype=torch.float32)


def _draw(
    latents: NDArray[np.float16],
    specs: NDArray[np.int64],
    plan: Plan,
    single: bool,
    parts: int,
    rng: np.random.Generator,
) -> tuple[torch.Tensor, NDArray[np.int64]]:
    """Draw one process's windows of videos: ``[B, 4, F, 8, 8]`` and the specs' numbers ``[B]``."""
    lengths, shares = zip(*plan.lengths, strict=True)
    length = 1 if single else int(rng.choice(lengths, p=shares))
    batch = max(1, plan.batch_frames // length // parts)
    videos = rng.integers(len(latents), size=batch)
    starts = rng.integers(latents.shape[1] - length + 1, size=batch)
    windows = [latents[n, start : start + length] for n, start in zip(videos, starts, strict=True)]
    return torch.from_numpy(np.stack(windows)).float().transpose(1, 2), specs[videos]


def _loss(
    unet: UNet3DConditionModel,
    text_encoder: nn.Module,
    clean: torch.Tensor,
    tokens: torch.Tensor,
    alphas: torch.Tensor,
    rng: np.random.Generator,
) -> torch.Tensor:
    """Mean squared error of the predicted velocity, noise levels spread over the batch."""
    batch = len(clean)
    # A power below one: the high levels, where the motion is settled, come a little oftener.
    levels = ((rng.permutation(batch) + rng.random(batch)) / batch) ** 0.75 * len(alphas)
    times = torch.from_numpy(levels.astype(np.int64))
    signal = alphas[times].sqrt()[:, None, None, None, None]
    spread = (1.0 - alphas[times]).sqrt()[:, None, None, None, None]
    noise = torch.from_numpy(rng.standard_normal(clean.shape, dtype=np.float32))
    with torch.autocast("cpu", torch.bfloat16):
        text = text_encoder(tokens)[0]
        guess = unet(signal * clean + spread * noise, times, text, return_dict=False)[0]
    error: torch.Tensor = guess.float() - (signal * noise - spread * clean)
    return error.square().mean()


def _save(
    state: Path,
    unet: nn.Module,
    text_encoder: nn.Module,
    optimiser: torch.optim.Optimizer,
    average: Average,
    step: int,
    history: list[tuple[int, float, str]],
) -> None:
    content = {
        "unet": unet.state_dict(),
        "text_encoder": text_encoder.state_dict(),
        "optimiser": optimiser.state_dict(),
        "average": average.values,
        "count": average.count,
        "step": step,
        "history": history,
    }
    fresh = state.with_suffix(".new")
    torch.save(content, fresh)
    fresh.replace(state)
