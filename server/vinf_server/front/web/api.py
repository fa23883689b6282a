"""What the page asks for: each handler converts, calls what the gRPC door calls, and converts back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from vinf.v1 import video_generation_service_pb2 as service_pb2
from vinf_server.front.errors import InvalidFieldsError, Violation
from vinf_server.front.generations.generation import Generation
from vinf_server.front.generations.generations import Generations
from vinf_server.front.rpc.admission import Admission
from vinf_server.front.rpc.server_info import ServerInfoService
from vinf_server.front.rpc.validation import check_list, make_page_token
from vinf_server.front.web.bodies import read_create
from vinf_server.front.web.lanes import Lanes
from vinf_server.front.web.snapshots import generation_dict
from vinf_server.front.web.updates import Updates
from vinf_server.front.web.videos import Videos
from vinf_server.front.web.who import Who, host_of

_NOT_STORED = {"Cache-Control": "no-store"}


class Api:
    """The handlers and their routes."""

    def __init__(
        self,
        *,
        generations: Generations,
        admission: Admission,
        info: ServerInfoService,
        lanes: Lanes,
        videos: Videos,
        who: Who,
        facts: dict[str, Any],
    ) -> None:
        self._generations = generations
        self._admission = admission
        self._info = info
        self._lanes = lanes
        self._videos = videos
        self._who = who
        self._facts = facts
        generations.keeper.when_forgotten(videos.forget)

    def routes(self) -> list[Route]:
        """Everything below ``/api``."""
        one = "/api/generations/{generation_id}"
        return [
            Route("/api/updates", self.updates),
            Route("/api/generations", self.list, methods=["GET"]),
            Route("/api/generations", self.create, methods=["POST"]),
            Route(one, self.delete, methods=["DELETE"]),
            Route(f"{one}/cancel", self.cancel, methods=["POST"]),
            Route(f"{one}/video", self.video),
            Route(f"{one}/video.mp4", self.video_file),
        ]

    async def updates(self, request: Request) -> Response:
        """Everything that changes, until the page or the server leaves."""
        updates = Updates(
            self._generations,
            self._info,
            self._lanes,
            self._facts,
            owner=await self._who.asks(request),
            chosen_id=request.query_params.get("generation", ""),
        )
        return StreamingResponse(updates.lines(), media_type="application/x-ndjson", headers=_NOT_STORED)

    async def create(self, request: Request) -> Response:
        """CreateGeneration: the body is its request as JSON."""
        wanted = await read_create(request)
        owner = await self._who.asks(request)
        generation, deduplicated = await self._admission.create(wanted, owner=owner, host=host_of(request))
        return JSONResponse(
            {"generation": generation_dict(generation, self._generations), "deduplicated": deduplicated},
            headers=_NOT_STORED,
        )

    async def list(self, request: Request) -> Response:
        """ListGenerations: one page, newest first."""
        wanted = service_pb2.ListGenerationsRequest(page_token=request.query_params.get("page_token", ""))
        owner = await self._who.asks(request)
        size, before_id = check_list(wanted)
        page = self._generations.page(before_id=before_id, states=frozenset(), limit=size + 1, owner=owner)
        return JSONResponse(
            {
                "generations": [generation_dict(generation, self._generations) for generation in page[:size]],
                "next_page_token": make_page_token(page[size - 1].generation_id) if len(page) > size else "",
            },
            headers=_NOT_STORED,
        )

    async def cancel(self, request: Request) -> Response:
        """CancelGeneration."""
        generation = self._generations.cancel((await self._owned(request)).generation_id)
        await self._generations.until_saved()
        return JSONResponse(generation_dict(generation, self._generations), headers=_NOT_STORED)

    async def delete(self, request: Request) -> Response:
        """DeleteGeneration."""
        await self._generations.delete((await self._owned(request)).generation_id)
        return JSONResponse({}, headers=_NOT_STORED)

    async def video(self, request: Request) -> Response:
        """The video as fragmented MP4 that grows while frames are made; ``?frame=N`` begins near that frame."""
        generation = await self._owned(request)
        frame = request.query_params.get("frame", "0")
        if not frame.isascii() or not frame.isdigit():
            raise InvalidFieldsError([Violation("frame", f"must be a whole number from 0 on, got {frame[:40]!r}")])
        video = await self._videos.of(generation)

        async def held() -> AsyncIterator[bytes]:
            with self._generations.leases.holding(generation.generation_id) as stream:
                chunks = video.chunks(
                    first_frame=int(frame), is_over=lambda: self._generations.is_draining or generation.is_forgotten
                )
                async with aclosing(chunks):
                    async for chunk in chunks:
                        with stream.giving():
                            yield chunk

        return StreamingResponse(held(), media_type=video.mime_type, headers=_NOT_STORED)

    async def video_file(self, request: Request) -> Response:
        """The whole video of a generation that has ended, as a plain file."""
        generation = await self._owned(request)
        path = await (await self._videos.of(generation)).plain_file()
        return FileResponse(
            path, media_type="video/mp4", filename=f"vinf-{generation.generation_id}.mp4", headers=_NOT_STORED
        )

    async def _owned(self, request: Request) -> Generation:
        owner = await self._who.asks(request)
        generation = self._generations.get(request.path_params["generation_id"], owner=owner)
        self._generations.leases.touch(generation.generation_id)
        return generation
