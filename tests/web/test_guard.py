"""Requests that no page of this server sends, and the headers of every answer."""

from __future__ import annotations

import socket

import pytest

from tests.web.conftest import HOST, request
from vinf_server.flag_values import Address
from vinf_server.front.web.guard import known_names

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("host", "is_known"),
    [
        (HOST, True),
        ("localhost:9999", True),
        ("LOCALHOST", True),
        ("[::1]:8080", True),
        ("10.1.2.3:8080", True),
        ("video.example.org", True),
        ("evil.example.org:8080", False),
        ("127.0.0.1.evil.example.org", False),
        ("", False),
        ("a b", False),
        ("user@localhost", False),
        (None, False),
    ],
)
def test_only_known_names_are_answered_to(page, run, host, is_known):
    async def scenario():
        async with page(web_names=("video.example.org",)) as served:
            answer = await served.ask("GET", "/", host=host)
            assert answer.status == (200 if is_known else 421)
            if not is_known:
                assert (await answer.json())["reason"] == "UNKNOWN_HOST"

    run(scenario())


def test_a_page_that_others_can_reach_goes_by_the_machines_names():
    assert known_names(Address("0.0.0.0", 80), ("Proxy",)) == {
        *("0.0.0.0", "localhost", "proxy", socket.gethostname().lower(), socket.getfqdn().lower())
    }


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"origin": None}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://evil.example.org"}, 403),
        ({"origin": "http://127.0.0.1:9999"}, 403),
        ({"sec_fetch_site": "cross-site"}, 403),
        ({"sec_fetch_site": "same-origin"}, 200),
        ({"content_type": "text/plain"}, 415),
        ({"content_type": None}, 415),
        ({"content_type": "application/json; charset=utf-8"}, 200),
    ],
)
def test_what_changes_something_comes_from_a_page_of_ours(page, run, headers, status):
    async def scenario():
        async with page() as served:
            names = {"content_type": "content-type"}
            sent = {names.get(name, name): value for name, value in headers.items()}
            answer = await served.ask("POST", "/api/generations", json_body=request(), **sent)
            assert answer.status == status
            assert served.generations.waiting_count == (status == 200)

    run(scenario())


@pytest.mark.parametrize(
    "path", ["/", "/main.js", "/base.css", "/api/generations", "/nowhere", "/api/generations/x/video"]
)
def test_every_answer_forbids_what_the_page_does_not_need(page, run, path):
    async def scenario():
        async with page() as served:
            answer = await served.ask("GET", path)
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert "http" not in policy, "nothing from elsewhere"
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert "server" not in answer.headers
            assert answer.headers["cache-control"] in ("no-cache", "no-store")

    run(scenario())


def test_the_pages_files_are_all_there_is(page, run):
    async def scenario():
        async with page() as served:
            for path in ("/../server.py", "/..%2fserver.py", "/page/index.html", "//etc/passwd"):
                assert (await served.ask("GET", path)).status in (404, 405)

    run(scenario())
