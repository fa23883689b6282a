"""Embeddings kept across generations: each prompt encoded once and alone, the least recently used leave first."""

from __future__ import annotations

import pytest
import torch

from tests.support.engine import make_generator, spec
from tests.support.tiny import tiny_model
from vinf_core.context.clip_context import ClipContext
from vinf_core.context.install import install
from vinf_core.context.partition import clips_of
from vinf_core.distributed.exchange import Exchange
from vinf_core.distributed.groups import Groups
from vinf_core.distributed.topology import Topology
from vinf_core.engine.prompt_cache import DEFAULT_CAPACITY, PromptCache
from vinf_core.events import StageClock
from vinf_core.models.adapter import TemporalSites
from vinf_core.types import PromptSegment

pytestmark = pytest.mark.fast


class Encoder:
    """Numbers instead of words; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def __call__(self, prompts: list[str]) -> torch.Tensor:
        self.asked.append(prompts)
        return torch.tensor([[[float(len(prompt))]] for prompt in prompts])


def test_a_prompt_is_encoded_once_and_alone() -> None:
    encoder = Encoder()
    cache = PromptCache(encoder)
    first = cache.embed(["a", "bb", "a"])
    assert encoder.asked == [["a"], ["bb"]]
    assert [float(text) for text in first] == [1.0, 2.0, 1.0]
    assert first[0].shape == (1, 1)
    assert (cache.hit_count, cache.miss_count, len(cache)) == (1, 2, 2)
    assert cache.embed(["bb"])[0] is first[1]
    assert (cache.hit_count, cache.miss_count) == (2, 2)


def test_the_least_recently_used_leaves() -> None:
    encoder = Encoder()
    cache = PromptCache(encoder, capacity=2)
    cache.embed(["a", "bb", "a", "ccc"])
    assert len(cache) == 2
    cache.embed(["a", "ccc"])
    assert (cache.hit_count, cache.miss_count) == (3, 3)
    cache.embed(["bb"])
    assert cache.miss_count == 4


def test_long_embeddings_leave_before_there_are_many() -> None:
    encoder = Encoder()
    cache = PromptCache(encoder, max_bytes=8)
    cache.embed(["a", "bb", "ccc"])
    assert len(cache) == 2, "4 bytes each"
    cache.embed(["ccc", "bb"])
    assert cache.hit_count == 2
    nothing = PromptCache(encoder, max_bytes=3)
    assert [float(text) for text in nothing.embed(["a", "bb"])] == [1.0, 2.0]
    assert len(nothing) == 0


def test_more_prompts_than_room() -> None:
    cache = PromptCache(Encoder())
    prompts = ["x" * length for length in range(1, DEFAULT_CAPACITY + 4)]
    assert [float(text) for text in cache.embed(prompts)] == list(range(1, DEFAULT_CAPACITY + 4))
    assert len(cache) == DEFAULT_CAPACITY
    assert (cache.hit_count, cache.miss_count) == (0, len(prompts))


def test_a_generator_keeps_its_prompts() -> None:
    generator, _, _ = make_generator(Topology.single(), Groups(control=None, data=None), torch.float32)
    cache = generator.texts.cache
    (clip,) = clips_of([11])
    one = generator.texts.encode(spec(), clip.frames)
    assert (cache.hit_count, cache.miss_count) == (0, 2), "the prompt and the empty negative prompt"
    story = spec(
        segments=(
            PromptSegment(start_frame=3, prompt="a star", transition_frames=2),
            PromptSegment(start_frame=8, prompt=spec().prompt, cut=True),
        )
    )
    text = generator.texts.encode(story, clip.frames)
    assert (cache.hit_count, cache.miss_count) == (2, 3)
    assert torch.equal(text[1, 9:], one[1].expand(2, -1, -1))
    fresh, _, _ = make_generator(Topology.single(), Groups(control=None, data=None), torch.float32)
    assert torch.equal(fresh.texts.encode(story, clip.frames), text), "what is cached does not show"
    generator.texts.encode(spec(negative_prompt=spec().prompt), clip.frames)
    assert (cache.hit_count, cache.miss_count) == (3, 3), "a negative prompt that is the prompt counts once"
    generator.texts.encode(spec(guidance_scale=1.0, negative_prompt="fog"), clip.frames)
    assert (cache.hit_count, cache.miss_count) == (4, 3), "without guidance there is no negative prompt"


def test_a_text_per_frame_equals_one_text_a_call() -> None:
    """The denoiser treats frames as batch entries: a frame's own text acts on it as in a call with that text alone."""
    model = tiny_model()
    texts = torch.stack([model.encode_text([prompt])[0] for prompt in ("a red ball", "a star", "")])
    generator = torch.Generator().manual_seed(4)
    latents = torch.randn(3, 4, 4, 4, generator=generator, dtype=torch.float64)
    # Stock temporal modules see one frame a call here, so frames are apart.
    topology = Topology.single()
    context = ClipContext(Exchange(topology, None, StageClock(topology.device)))
    install(model.unet, TemporalSites((), ()), context, model.framewise_sites)
    together = model.predict(latents, 300.0, texts[None])
    for index in range(3):
        apart = model.predict(latents[index : index + 1], 300.0, texts[None, index : index + 1])
        torch.testing.assert_close(together[index : index + 1], apart, rtol=1e-12, atol=1e-12)
    repeated = model.predict(latents, 300.0, texts[None, :1].expand(-1, 3, -1, -1).contiguous())
    torch.testing.assert_close(model.predict(latents, 300.0, texts[None, :1]), repeated, rtol=1e-12, atol=1e-12)
