"""What the page may ask for, and what it is told when it may not."""

from __future__ import annotations

import hashlib

import pytest

from tests.web.conftest import request, store_frames
from vinf.v1 import generation_pb2
from vinf_server.front.generations.generation import CANCELLED, Terms
from vinf_server.front.rpc.doors import Doors
from vinf_server.front.rpc.tokens import TokenFile
from vinf_server.front.web.bodies import parse_create

pytestmark = pytest.mark.fast


async def create(page, **fields) -> str:
    answer = await page.ask("POST", "/api/generations", json_body=request(**fields))
    assert answer.status == 200
    return (await answer.json())["generation"]["generation_id"]


def test_a_generation_is_made_listed_cancelled_and_deleted(page, run):
    async def scenario():
        async with page() as served:
            answer = await served.ask("POST", "/api/generations", json_body=request(frame_count="8", seed="7"))
            made = (await answer.json())["generation"]
            assert made["state"] == "GENERATION_STATE_PENDING"
            assert (made["resolved_spec"]["frame_count"], made["resolved_spec"]["seed"]) == ("8", "7")
            listed = await (await served.ask("GET", "/api/generations")).json()
            assert [each["generation_id"] for each in listed["generations"]] == [made["generation_id"]]
            one = f"/api/generations/{made['generation_id']}"
            assert (await served.ask("DELETE", one)).status == 409, "it has not ended"
            cancelled = await (await served.ask("POST", f"{one}/cancel", json_body={})).json()
            assert cancelled["error"]["reason"] == "CANCEL_REQUESTED"
            assert (await served.ask("DELETE", one)).status == 200
            gone = await served.ask("DELETE", one)
            assert (gone.status, (await gone.json())["reason"]) == (404, "GENERATION_NOT_FOUND")

    run(scenario())


def test_everything_wrong_is_told_in_the_words_of_the_other_door(page, run, sample):
    async def scenario():
        async with page() as served:
            wanted = request(prompt="a dog", frame_count="5000", guidance_scale="99")
            answer = await served.ask("POST", "/api/generations", json_body=wanted)
            told = await answer.json()
            assert (answer.status, told["code"], told["reason"]) == (400, "INVALID_ARGUMENT", "INVALID_FIELD")
            assert {item["field"]: item["description"] for item in told["violations"]} == {
                "spec.prompt": "has words this model does not know: 'dog'; it knows: a, red, blue, circle, square, "
                "slow, hang, fail, short, huge, crash",
                "spec.frame_count": "must be in [1, 4096] frames (default 16), got 5000",
                "spec.guidance_scale": "must be in [1, 50] (default 3), got 99",
            }
            assert sample("vinf_admission_rejections_total", reason="invalid") == 1

    run(scenario())


@pytest.mark.parametrize(
    ("body", "violations"),
    [
        (b'{"spec":{"seed":"abc","frame_count":"1.5"}}', {"spec.seed": "'abc'", "spec.frame_count": "'1.5'"}),
        (b'{"spec":{"guidance_scale":"x"},"priority":"high"}', {"spec.guidance_scale": "'x'", "priority": "'high'"}),
        (
            b'{"spec":{"prompt_segments":[{"start_frame_index":"1"},{"start_frame_index":"y"}]}}',
            {"spec.prompt_segments[1].start_frame_index": "'y'"},
        ),
        (b'{"spec":{"inference_step_count":4294967296}}', {"spec.inference_step_count": "32 bits, got 4294967296"}),
    ],
)
def test_what_is_no_number_is_told_beside_its_field(body, violations):
    with pytest.raises(ValueError, match="must be") as caught:
        parse_create(body)
    found = {violation.field: violation.description for violation in caught.value.violations}
    assert found.keys() == violations.keys()
    for field, part in violations.items():
        assert part in found[field]


@pytest.mark.parametrize(
    "body", [b"", b"[1]", b'"x"', b'{"spec":5}', b'{"x":1}', b'{"spec":{"prompt":5}}', b"[" * 9999]
)
def test_what_is_no_request_is_malformed(body):
    with pytest.raises(ValueError, match="the request is no") as caught:
        parse_create(body)
    assert "Available Fields" not in str(caught.value), "the field that is wrong, not a list of all others"


def test_a_long_body_is_refused(page, run):
    async def scenario():
        async with page() as served:
            answer = await served.ask("POST", "/api/generations", json_body=request(prompt="a" * 300_000))
            assert (answer.status, (await answer.json())["reason"]) == (400, "MALFORMED_REQUEST")

    run(scenario())


def test_before_the_ranks_have_reported_nothing_is_admitted(page, run):
    async def scenario():
        async with page(is_ready=False) as served:
            answer = await served.ask("POST", "/api/generations", json_body=request())
            assert (answer.status, (await answer.json())["reason"]) == (503, "WORKERS_NOT_READY")

    run(scenario())


def test_both_doors_count_one_clients_requests_together(page, run):
    async def scenario():
        async with page() as served:
            served.generations.limits.creates.per_minute = 2
            served.generations.limits.creates.take("ipv4:127.0.0.1")  # as gRPC names it
            answers = [await served.ask("POST", "/api/generations", json_body=request()) for _ in range(2)]
            assert [answer.status for answer in answers] == [200, 429]
            assert (await answers[1].json())["reason"] == "CLIENT_LIMIT"

    run(scenario())


def test_each_token_sees_its_own_generations_only(page, run, tmp_path):
    path = tmp_path / "tokens"
    path.write_text("".join(f"{name} {hashlib.sha256(f'for-{name}'.encode()).hexdigest()}\n" for name in ("al", "bo")))
    doors = Doors(tokens=TokenFile(path))
    al, bo = {"authorization": "Bearer for-al"}, {"authorization": "Bearer for-bo"}

    async def scenario():
        async with page(doors) as served:
            for headers, reason in (
                ({}, "TOKEN_MISSING"),
                ({"authorization": "Bearer x"}, "TOKEN_INVALID"),
                ({"authorization": "for-al"}, "TOKEN_INVALID"),
            ):
                for method, where in (
                    ("GET", "/api/updates"),
                    ("POST", "/api/generations"),
                    ("GET", "/api/generations"),
                ):
                    answer = await served.ask(method, where, json_body=request(), **headers)
                    assert (answer.status, (await answer.json())["reason"]) == (401, reason)
            assert (await served.ask("GET", "/")).status == 200, "the page itself asks for the token"
            made = await served.ask("POST", "/api/generations", json_body=request(), **al)
            one = f"/api/generations/{(await made.json())['generation']['generation_id']}"
            listed = [(await (await served.ask("GET", "/api/generations", **who)).json()) for who in (al, bo)]
            assert [len(each["generations"]) for each in listed] == [1, 0]
            for method, path in (("DELETE", one), ("POST", f"{one}/cancel"), ("GET", f"{one}/video")):
                assert (await served.ask(method, path, **bo)).status == 404
            seen = await (await served.ask("GET", "/api/updates", **bo)).line()
            assert "generations" not in seen
            assert len((await (await served.ask("GET", "/api/updates", **al)).line())["generations"]) == 1

    run(scenario())


def test_the_video_and_its_file_hold_what_was_made(page, run):
    async def scenario():
        async with page() as served:
            generation_id = await create(served, frame_count="8")
            one = f"/api/generations/{generation_id}"
            generation = served.generations.start_next()
            assert generation.generation_id == generation_id
            video = await served.ask("GET", f"{one}/video")
            assert (video.status, video.headers["content-type"][:24]) == (200, 'video/mp4; codecs="avc1.')
            early = await served.ask("GET", f"{one}/video.mp4")
            assert (early.status, (await early.json())["reason"]) == (409, "WRONG_STATE")
            await store_frames(served.generations, generation, *range(8))
            served.generations.succeed(generation)
            whole = await video.body()
            assert whole[4:8] == b"ftyp"
            assert whole.count(b"moof") == 1, "eight frames are less than half a second"
            file = await served.ask("GET", f"{one}/video.mp4")
            assert file.headers["content-disposition"] == f'attachment; filename="vinf-{generation_id}.mp4"'
            plain = await file.body()
            assert b"moof" not in plain
            assert int(file.headers["content-length"]) == len(plain)
            part = await served.ask("GET", f"{one}/video.mp4", range="bytes=4-7")
            assert (part.status, await part.body()) == (206, b"ftyp")
            odd = await served.ask("GET", f"{one}/video?frame=-1")
            assert (await odd.json())["violations"][0]["field"] == "frame"

    run(scenario())


def test_without_a_frame_or_an_encoder_there_is_no_video_but_everything_else(page, run, monkeypatch):
    async def scenario():
        async with page() as served:
            one = f"/api/generations/{await create(served, frame_count='8')}"
            await served.ask("POST", f"{one}/cancel", json_body={})
            answer = await served.ask("GET", f"{one}/video.mp4")
            assert (answer.status, (await answer.json())["reason"]) == (501, "NO_VIDEO")
            monkeypatch.setitem(__import__("sys").modules, "av", None)
            other = f"/api/generations/{await create(served, frame_count='9')}"
            for path in (f"{other}/video", f"{other}/video"):
                answer = await served.ask("GET", path)
                assert answer.status == 501
                assert (await answer.json())["message"] == "the server has no PyAV: pip install av"
            assert (await served.ask("POST", f"{other}/cancel", json_body={})).status == 200

    run(scenario())


def test_watching_a_video_holds_its_lease(page, run):
    async def scenario():
        async with page() as served:
            now = [0.0]
            leases = served.generations.leases
            leases._clock = lambda: now[0]
            wanted = request(frame_count="8") | {"detached": False, "lease_duration": "5s"}
            made = await (await served.ask("POST", "/api/generations", json_body=wanted)).json()
            generation = served.generations.get(made["generation"]["generation_id"])
            assert generation.terms == Terms(lease_s=5.0)
            video = await served.ask("GET", f"/api/generations/{generation.generation_id}/video")
            await video.parts.get()
            now[0] = 100.0
            leases.check()
            assert generation.state == generation_pb2.GENERATION_STATE_PENDING
            video.leave.set()
            await video.body()
            now[0] = 200.0
            leases.check()
            assert generation.state == CANCELLED

    run(scenario())
