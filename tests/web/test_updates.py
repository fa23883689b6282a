"""The stream that keeps a page up to date."""

from __future__ import annotations

import pytest

from tests.server.fakes import create
from tests.web.conftest import store_frames
from vinf.v1 import generation_pb2
from vinf_server.front.frames.previews import make_preview

pytestmark = pytest.mark.fast


async def line_with(stream, key):
    """The next line that tells something."""
    while True:
        line = await stream.line()
        assert line is not None, f"the stream ended without {key}"
        if key in line:
            return line


def test_everything_comes_first_and_then_what_changes(page, run):
    async def scenario():
        async with page() as served:
            generations = served.generations
            generation = create(generations, frame_count=4)
            stream = await served.ask("GET", "/api/updates")
            assert stream.headers["content-type"] == "application/x-ndjson"
            first = await stream.line()
            assert first["facts"]["metrics"] == "http://127.0.0.1:9464/metrics"
            assert first["facts"]["stages"][1] == "denoise"
            assert first["facts"]["older_page_token"] == ""
            assert (first["server"]["ready"], first["server"]["models"][0]["name"]) == (False, "scripted")
            assert [each["generation_id"] for each in first["generations"]] == [generation.generation_id]
            assert first["generations"][0]["progress"]["frame_count"] == "4"

            generations.start_next()
            generations.planned(generation, (2, 2), 1)
            changed = (await line_with(stream, "generations"))["generations"]
            assert [each["state"] for each in changed] == ["GENERATION_STATE_RUNNING"]
            assert [clip["frame_count"] for clip in changed[0]["clips"]] == ["2", "2"]
            generations.progressed(generation, generation_pb2.GENERATION_STAGE_DENOISE, 1, 0.1)
            await store_frames(generations, generation, 0, 1)
            while (each := (await line_with(stream, "generations"))["generations"][0])["next_frame_index"] != "2":
                pass
            assert each["progress"]["completed_step_count"] == 1

            other = create(generations, frame_count=4)
            assert [each["generation_id"] for each in (await line_with(stream, "generations"))["generations"]] == [
                other.generation_id
            ]
            generations.cancel(other.generation_id)
            await generations.delete(other.generation_id)
            assert (await line_with(stream, "gone"))["gone"] == [other.generation_id]

            quiet = await stream.line()
            assert quiet.keys() == {"now_ms"}, "a sign of life"

            generations.drain()
            while (line := await stream.line()) is not None:
                last = line
            assert last["server"]["stopping"]

    run(scenario())


def test_previews_come_for_the_chosen_generation_only(page, run):
    async def scenario():
        async with page() as served:
            chosen, other = create(served.generations), create(served.generations)
            for generation, level in ((chosen, 10), (other, 200)):
                picture = make_preview(bytes([level]) * 192, 8, 8, frame_index=3, completed_steps=2)
                generation.previews.put([picture])
            stream = await served.ask("GET", f"/api/updates?generation={chosen.generation_id}")
            first = await stream.line()
            assert first["previews"]["generation_id"] == chosen.generation_id
            (picture,) = first["previews"]["pictures"]
            assert (picture["frame_index"], picture["completed_step_count"]) == (3, 2)
            assert picture["jpeg"].startswith("/9j/"), "a JPEG in base64"
            chosen.previews.put([make_preview(bytes(192), 8, 8, frame_index=5, completed_steps=4)])
            again = await line_with(stream, "previews")
            assert [each["frame_index"] for each in again["previews"]["pictures"]] == [5], "not those of before"

    run(scenario())


def test_what_is_not_there_can_be_chosen(page, run):
    async def scenario():
        async with page() as served:
            stream = await served.ask("GET", "/api/updates?generation=nothing")
            assert "server" in await stream.line()

    run(scenario())


def test_a_chosen_generation_that_has_long_ended_is_shown_with_newer_ones(page, run, monkeypatch):
    monkeypatch.setattr("vinf_server.front.web.updates._NEWEST", 1)

    async def scenario():
        async with page() as served:
            old, new = create(served.generations), create(served.generations)
            for generation in (old, new):
                served.generations.cancel(generation.generation_id)
            for query, wanted in (("", [new]), (f"?generation={old.generation_id}", [new, old])):
                stream = await served.ask("GET", f"/api/updates{query}")
                first = await stream.line()
                shown = [each["generation_id"] for each in first["generations"]]
                assert shown == [generation.generation_id for generation in wanted]
            older = await served.ask("GET", f"/api/generations?page_token={first['facts']['older_page_token']}")
            assert [each["generation_id"] for each in (await older.json())["generations"]] == [old.generation_id]

    run(scenario())
