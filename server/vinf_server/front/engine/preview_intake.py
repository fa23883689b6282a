"""Previews on their way from the ranks to those who watch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from vinf.engine.v1 import engine_link_service_pb2 as link_pb2
from vinf.v1 import generation_pb2
from vinf.v1.video_generation_service_pb2 import Preview
from vinf_server.front.frames.previews import make_preview
from vinf_server.front.generations.generations import Generations

MAX_PICTURES = 16
"""In one message: of one rank's clip, after one step."""


class PreviewError(Exception):
    """What a rank sent does not fit its generation."""


class PreviewIntake:
    """Checks what ranks send, compresses it in a thread and shows it, as long as somebody may want it."""

    def __init__(self, generations: Generations) -> None:
        self._generations = generations

    async def show(self, request: link_pb2.SendPreviewRequest, *, is_wanted: Callable[[], bool]) -> None:
        """Take the pictures of one message; those of a generation that is not in work are dropped.

        Args:
            request: from a rank.
            is_wanted: whether the group that sends it is still the one that works.

        Raises:
            PreviewError: they are not what the contract says.
        """
        generation = self._generations.in_work(request.generation_id)
        if generation is None:
            return
        _check(request, generation.resolved_spec)
        previews = await asyncio.to_thread(_make_all, request)
        # The generation may have ended, or gone to other ranks, meanwhile.
        if is_wanted() and self._generations.in_work(request.generation_id) is generation:
            generation.previews.put(previews)


def _check(request: link_pb2.SendPreviewRequest, spec: generation_pb2.GenerationSpec) -> None:
    """Nothing larger than the video itself is ever unpacked, whatever a rank sends."""
    if not 1 <= request.step <= spec.inference_step_count:
        raise PreviewError(f"step {request.step} is not in [1, {spec.inference_step_count}]")
    if len(request.pictures) > MAX_PICTURES:
        raise PreviewError(f"{len(request.pictures)} pictures came, {MAX_PICTURES} are allowed")
    for picture in request.pictures:
        width, height = picture.width, picture.height
        if not 0 <= picture.frame_index < spec.frame_count:
            raise PreviewError(f"frame {picture.frame_index} is not in [0, {spec.frame_count - 1}]")
        if not (1 <= width <= spec.width and width * spec.height == height * spec.width):
            raise PreviewError(f"{width} x {height} pixels are no smaller picture of {spec.width} x {spec.height}")
        if len(picture.data) != 3 * width * height:
            raise PreviewError(f"{len(picture.data)} bytes are no {width} x {height} pixels")


def _make_all(request: link_pb2.SendPreviewRequest) -> list[Preview]:
    return [
        make_preview(
            picture.data,
            picture.width,
            picture.height,
            frame_index=picture.frame_index,
            completed_steps=request.step,
        )
        for picture in request.pictures
    ]
