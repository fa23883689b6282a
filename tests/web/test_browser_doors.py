"""The page where tokens are asked for, and when its server goes away; on scripted ranks, which are there at once."""

from __future__ import annotations

import hashlib
import signal

import pytest
from playwright.sync_api import expect

from tests.server.conftest import QUICK_AGENT
from tests.web.browser import assert_accessible

pytestmark = [pytest.mark.process, pytest.mark.timeout(300)]


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
    expect(page.locator(".problem")).to_have_text("The server cannot be reached. Nothing was sent; try again.")
    front.ready_file.unlink(missing_ok=True)
    front_process(*QUICK_AGENT, "--web", address).wait_ready()
    expect(banner).to_be_hidden()
    expect(page.locator("#server-state")).to_have_text("Ready")
    expect(page.locator(".list li")).to_have_count(1)
    make(page, "a blue square")
    expect(page.locator(".list li")).to_have_count(2)
