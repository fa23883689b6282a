"""The page where tokens are asked for, and when its server goes away; on scripted ranks, which are there at once."""

from __future__ import annotations

import hashlib
import json
import signal
import uuid

import pytest
from playwright.sync_api import expect

from tests.server.conftest import QUICK_AGENT
from tests.web.browser import assert_accessible

pytestmark = [pytest.mark.process, pytest.mark.timeout(300)]


NO_ANSWER = "The server's answer did not come. Trying again without changes does not make a second video."


def make(page, prompt):
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.get_by_role("button", name="Make it").click()
    expect(page.locator("#viewer-title")).to_have_text(prompt)


def test_the_page_asks_for_a_token_and_shows_what_is_its_own(front_process, window, tmp_path):
    tokens = tmp_path / "tokens"
    tokens.write_text("".join(f"{name} {hashlib.sha256(name.encode()).hexdigest()}\n" for name in ("alice", "bob")))
    front = front_process(*QUICK_AGENT, "--web", "127.0.0.1:0", "--tokens", str(tokens))
    url = f"http://{front.wait_ready()['web']}/"

    def come_in(page, name):
        page.get_by_label("Token").fill(name)
        page.get_by_role("button", name="Go on").click()

    alice = window(url)
    expect(alice.get_by_role("dialog", name="Who are you?")).to_be_visible()
    assert_accessible(alice)
    alice.keyboard.press("Escape")
    come_in(alice, "somebody")
    expect(alice.locator("#token-error")).to_have_text("the token is not known here")
    come_in(alice, "alice")
    expect(alice.locator("#server-state")).to_have_text("Ready")
    make(alice, "a red circle")
    expect(alice.locator(".list li")).to_have_count(1)
    expect(alice.locator("#viewer-state .chip")).to_have_text("Done")
    refusal = {"code": "UNIMPLEMENTED", "reason": "NO_VIDEO", "message": "the server has no PyAV: pip install av"}
    for answer, words in (
        (lambda route: route.fulfill(status=501, json=refusal), refusal["message"]),
        (lambda route: route.abort(), "The server cannot be reached."),
    ):
        alice.route("**/video.mp4", answer, times=1)
        alice.get_by_role("link", name="Download").click()
        expect(alice.locator("#video-problem")).to_have_text(words)
    with alice.expect_download() as download:
        alice.get_by_role("link", name="Download").click()
    assert download.value.path().read_bytes()[4:8] == b"ftyp"
    alice.reload()  # the token is kept for this tab
    expect(alice.locator(".list li")).to_have_count(1)

    bob = window(url)
    come_in(bob, "bob")
    expect(bob.locator("#server-state")).to_have_text("Ready")
    expect(bob.get_by_text("Nothing has been made here yet.")).to_be_visible()
    make(bob, "a blue square")
    expect(bob.locator(".list li")).to_have_count(1)
    expect(alice.locator(".list li")).to_have_count(1)


def test_a_lost_server_is_told_and_waited_for(front_process, window):
    front = front_process(*QUICK_AGENT, "--web", "127.0.0.1:0")
    address = front.wait_ready()["web"]
    page = window(f"http://{address}/")
    make(page, "a red circle")
    expect(page.locator("#viewer-state .chip")).to_have_text("Done")
    banner = page.get_by_role("alert").and_(page.locator("#connection"))
    expect(banner).to_be_hidden()
    front.stop(signal.SIGKILL)
    expect(banner).to_have_text("Connection lost, trying again")
    expect(page.locator("#server-state")).to_have_text("No connection")
    page.get_by_role("button", name="Make it").click()
    expect(page.locator(".problem")).to_have_text(NO_ANSWER)
    front.ready_file.unlink(missing_ok=True)
    front_process(*QUICK_AGENT, "--web", address).wait_ready()
    expect(banner).to_be_hidden()
    expect(page.locator("#server-state")).to_have_text("Ready")
    expect(page.locator(".list li")).to_have_count(1)
    make(page, "a blue square")
    expect(page.locator(".list li")).to_have_count(2)


def test_a_request_whose_answer_was_lost_makes_one_video(front_process, window):
    front = front_process(*QUICK_AGENT, "--web", "127.0.0.1:0")
    page = window(f"http://{front.wait_ready()['web']}/")
    expect(page.locator("#server-state")).to_have_text("Ready")
    sent = []

    def lose_answer(route):
        sent.append(json.loads(route.request.post_data)["request_id"])
        made = route.fetch().json()
        assert not made["deduplicated"]
        route.abort()

    def lose():
        page.route("**/api/generations", lose_answer, times=1)
        page.get_by_role("button", name="Make it").click()
        expect(page.locator(".problem")).to_have_text(NO_ANSWER)

    page.get_by_label("Prompt", exact=True).fill("a red circle")
    lose()
    make(page, "a red circle")
    assert page.locator(".list li").count() == 1, "the same one"
    lose()  # that was answered: it is another one
    expect(page.locator(".list li")).to_have_count(2)
    make(page, "a blue square")  # which the id of the last one would not be taken for
    assert page.locator(".list li").count() == 3
    assert len(set(sent)) == 2
    assert {uuid.UUID(request_id).version for request_id in sent} == {4}


CANCEL = """id => fetch(`/api/generations/${id}/cancel`, {
  method: "POST", headers: {"Content-Type": "application/json"}, body: "{}",
}).then((response) => response.ok)"""


def test_the_focus_stays_where_it_was_when_the_list_changes(front_process, window):
    front = front_process(*QUICK_AGENT, "--web", "127.0.0.1:0")
    page = window(f"http://{front.wait_ready()['web']}/")
    expect(page.locator("#server-state")).to_have_text("Ready")
    ids = []
    for prompt in ("a slow circle", "a slow square"):  # each is at work until it is cancelled
        make(page, prompt)
        ids.append(page.evaluate("location.hash.slice(1)"))
    first = page.locator(".list li").first
    expect(first).to_contain_text("a slow circle")
    cancel = page.get_by_role("button", name="Cancel a slow square")
    cancel.focus()
    assert page.evaluate(CANCEL, ids[0])
    expect(first).to_contain_text("a slow square")
    expect(cancel).to_be_focused()
    assert page.evaluate(CANCEL, ids[1])
    expect(page.get_by_role("button", name="Delete a slow square")).to_be_visible()
    expect(first.locator(".open")).to_be_focused()
