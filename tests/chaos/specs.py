"""The videos that everybody asks for: short, and each another way through the server."""

from __future__ import annotations

from vinf.v1 import generation_pb2

Spec = generation_pb2.GenerationSpec

SPECS: dict[str, generation_pb2.GenerationSpec] = {
    "short": Spec(prompt="a red ball bouncing over the sea", seed=1, frame_count=8, inference_step_count=2),
    "plain": Spec(prompt="a white box sliding above the city", seed=2, frame_count=16, inference_step_count=3),
    "long": Spec(prompt="a yellow star circling over the meadow", seed=3, frame_count=40, inference_step_count=6),
    "steps": Spec(prompt="a purple ball hovering over the sea", seed=4, frame_count=8, inference_step_count=16),
    "odd": Spec(
        prompt="a red star sliding over the sea", seed=5, frame_count=13, inference_step_count=3, width=96, height=32
    ),
    "scenes": Spec(
        prompt="a red ball bouncing over the sea",
        seed=6,
        frame_count=24,
        inference_step_count=3,
        prompt_segments=[
            generation_pb2.PromptSegment(
                start_frame_index=10, prompt="a white ball bouncing over the city", transition_frame_count=4
            ),
            generation_pb2.PromptSegment(start_frame_index=17, prompt="a purple star over the meadow", cut=True),
        ],
    ),
}

QUICK = ("short", "plain")
"""Names of those for a run of seconds."""
