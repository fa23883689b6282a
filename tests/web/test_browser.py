"""The page as people use it: in a real Chromium, on a real server with two ranks."""

from __future__ import annotations

import json
import re

import grpc
import pytest
from playwright.sync_api import expect

from tests.support.server import Server
from tests.web.browser import TIMEOUT_S, assert_accessible, until
from vinf.v1 import generation_pb2
from vinf.v1 import video_generation_service_pb2 as v1
from vinf.v1.video_generation_service_pb2_grpc import VideoGenerationServiceStub

pytestmark = [pytest.mark.process, pytest.mark.timeout(300)]

PROMPT, LATER = "a red ball bouncing over the sea", "a yellow star circling over the city"
CUT = 18


class Site:
    """A server with two ranks, its page, and a client."""

    def __init__(self, server, url):
        self.server = server
        self.url = url
        self._channel = grpc.insecure_channel(server.address)
        self._stub = VideoGenerationServiceStub(self._channel)
        spec = generation_pb2.GenerationSpec(prompt=PROMPT, frame_count=24, inference_step_count=2, seed=1)
        spec.prompt_segments.add(start_frame_index=CUT, prompt=LATER, cut=True)
        self.done_id = self.create(spec)
        for _ in self._stub.WatchGeneration(v1.WatchGenerationRequest(generation_id=self.done_id), timeout=TIMEOUT_S):
            pass

    def create(self, spec, **terms):
        request = v1.CreateGenerationRequest(spec=spec, detached=True, **terms)
        return self._stub.CreateGeneration(request, timeout=TIMEOUT_S).generation.generation_id

    def generation(self, generation_id):
        request = v1.GetGenerationRequest(generation_id=generation_id)
        return self._stub.GetGeneration(request, timeout=TIMEOUT_S).generation

    def newest(self):
        return self._stub.ListGenerations(v1.ListGenerationsRequest(), timeout=TIMEOUT_S).generations[0]

    def release_before(self, generation_id, index):
        request = v1.PullFramesRequest(
            generation_id=generation_id, start_frame_index=index, release_before_frame_index=index
        )
        self._stub.PullFrames(request, timeout=TIMEOUT_S)

    def close(self):
        self._channel.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    options = ("--ranks", "2", "--device", "cpu", "--rank-weights", "even", "--web", "127.0.0.1:0")
    with Server(tmp_path_factory.mktemp("site"), *options) as server:
        address = json.loads((server.folder / "ready.json").read_text())["web"]
        site = Site(server, f"http://{address}/")
        yield site
        site.close()


FRAMES_TO_PLAY = (
    "(video => video.buffered.length ? Math.round(video.buffered.end(0) * 8) : 0)(document.querySelector('video'))"
)
"""The embedded model has eight frames a second."""

TIME = "document.querySelector('video').currentTime"


def chip(page):
    return page.locator("#viewer-state .chip")


def slider(page):
    return page.get_by_role("slider", name="Frame")


def frame_shown(page):
    return int(slider(page).get_attribute("aria-valuenow"))


def marks(page, kind):
    """The marks on the timeline: their frames, and where they are, from 0 to 1."""
    return page.evaluate(
        """kind => {
          const track = document.querySelector(".track").getBoundingClientRect();
          return [...document.querySelectorAll(`.marks .${kind}`)].map((mark) => {
            const box = mark.getBoundingClientRect();
            return [Number(mark.dataset.frame), (box.x + box.width / 2 - track.x) / track.width];
          });
        }""",
        kind,
    )


def test_a_video_is_made_with_the_form(site, window):
    page = window(site.url)
    page.get_by_label("Prompt", exact=True).fill(PROMPT)
    page.get_by_label("Unit of the length").select_option("seconds")
    page.get_by_label("Length", exact=True).fill("4")
    # Its previews go when it is over: it takes long enough for the page to see some.
    page.get_by_label("Steps", exact=True).fill("24")
    page.get_by_text("More settings").click()
    page.get_by_label("Seed").fill("5")
    page.get_by_role("button", name="Make it").click()
    expect(page.locator("#previews img")).to_have_count(6)
    expect(page.locator(".preview-row")).to_have_count(2)
    # Asked for in ways that work when they are hidden already, and while newer pictures take their places.
    frames = page.locator("#previews figcaption > span:first-child").all_text_contents()
    assert frames == [f"frame {index}" for index in (0, 7, 15, 16, 23, 31)], "of the clips of both ranks"
    until(page, "document.querySelector('#previews img').naturalWidth === 64")
    expect(chip(page)).to_have_text("Done")
    expect(page.locator("#previews")).to_be_hidden()
    until(page, f"{FRAMES_TO_PLAY} === 32")
    newest = site.newest().resolved_spec
    assert (newest.seed, newest.inference_step_count, newest.frame_count) == (5, 24, 32)
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename == f"vinf-{site.newest().generation_id}.mp4"
    assert download.value.path().read_bytes()[4:8] == b"ftyp"
    lane = page.get_by_role("img", name="Rank 1, over two minutes")
    expect(lane).to_have_attribute("aria-label", re.compile(r"denoise \d+ %"))


def test_a_video_plays_before_it_is_done(site, window):
    page = window(site.url)
    # So many frames are kept and no more: the ranks wait until the test lets the others in.
    spec = generation_pb2.GenerationSpec(prompt=PROMPT, frame_count=96, inference_step_count=1, seed=3)
    generation_id = site.create(spec, retention_frame_count=64)
    page.locator(".list .open", has_text="96 frames").click()
    until(page, f"{TIME} > 0 && {FRAMES_TO_PLAY} > 0")
    begun = page.evaluate(TIME)
    until(page, f"{TIME} > {begun} + 0.5")
    assert chip(page).inner_text() in ("Being made", "Suspended")
    assert site.generation(generation_id).progress.completed_frame_count < 96
    until(page, f"{FRAMES_TO_PLAY} === 60")  # the fragment behind is finished by a frame that is not there yet
    slider(page).press("End")
    expect(page.locator("#making")).to_have_text("making frame 61 of 96")
    assert frame_shown(page) == 59
    late = window(f"{site.url}#{generation_id}")
    until(late, f"{FRAMES_TO_PLAY} === 60")
    site.release_before(generation_id, 64)
    for each in (page, late):
        expect(chip(each)).to_have_text("Done")
        until(each, f"{FRAMES_TO_PLAY} === 96")
        expect(each.locator("#making")).to_be_hidden()
    slider(page).press("End")
    assert frame_shown(page) == 95


def test_seams_and_cuts_are_where_they_belong(site, window):
    page = window(f"{site.url}#{site.done_id}")
    until(page, f"{FRAMES_TO_PLAY} === 24")
    assert marks(page, "seam") == [[12, pytest.approx(0.5, abs=0.005)]]
    assert marks(page, "cut") == [[CUT, pytest.approx(CUT / 24, abs=0.005)]]
    assert page.locator(".clips span").all_inner_texts() == ["rank 0 · 0–11", "rank 1 · 12–23"]
    assert page.locator(".prompts span").all_inner_texts() == [PROMPT, f"✂ {LATER}"]
    slider(page).press("Home")
    page.get_by_role("button", name="Next seam").click()
    assert frame_shown(page) == 12
    expect(slider(page)).to_have_attribute("aria-valuetext", "frame 12 of 24, 0:01.5, clip of rank 1")
    expect(page.get_by_role("button", name="Next seam")).to_be_disabled()
    page.get_by_role("button", name="Previous seam").or_(slider(page)).first.focus()
    box = page.locator(".track").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.25, box["y"] + box["height"] / 2)
    assert frame_shown(page) == 6


def test_what_is_wrong_stands_beside_its_field(site, window):
    page = window(site.url)
    before = site.newest().generation_id
    prompt, length = page.get_by_label("Prompt", exact=True), page.get_by_label("Length", exact=True)
    prompt.fill("a red dog")
    length.fill("many")
    page.get_by_role("button", name="Make it").click()
    error = page.locator(".field", has=length).locator(".error")
    expect(error).to_have_text("must be a whole number, got 'many'")
    length.fill("70000")
    expect(error).to_have_text("")
    page.get_by_role("button", name="Make it").click()
    expect(error).to_have_text("must be in [1, 65536] frames (default 48), got 70000")
    expect(page.locator(".field", has=prompt).locator(".error")).to_contain_text("does not know: 'dog'; it knows: a,")
    expect(prompt).to_have_attribute("aria-invalid", "true")
    expect(prompt).to_be_focused()
    described = prompt.get_attribute("aria-describedby").split()
    assert "dog" in page.locator(f"#{described[-1]}").inner_text()
    assert_accessible(page)
    length.fill("0")
    page.get_by_role("button", name="Make it").click()
    expect(error).to_have_text("must be more than 0; empty means the default")
    assert site.newest().generation_id == before, "nothing of it was made"


def test_without_an_encoder_the_page_says_so_and_does_the_rest(site, window):
    page = window(site.url)
    refusal = {"code": "UNIMPLEMENTED", "reason": "NO_VIDEO", "message": "the server has no PyAV: pip install av"}
    page.route("**/video?*", lambda route: route.fulfill(status=501, json=refusal))
    page.locator(".list .open", has_text="24 frames").click()
    expect(page.locator("#video-problem")).to_have_text("No video here: the server has no PyAV: pip install av.")
    assert marks(page, "seam")[0][0] == 12
    expect(page.locator("#viewer-state")).to_contain_text("24 frames in")
    page.unroute("**/video?*")
    page.reload()
    until(page, f"{FRAMES_TO_PLAY} === 24")
    expect(page.locator("#video-problem")).to_be_hidden()


def test_cancel_and_delete_ask_first(site, window):
    page = window(site.url)
    spec = generation_pb2.GenerationSpec(prompt="a white box", frame_count=200, inference_step_count=200)
    generation_id = site.create(spec)
    page.get_by_role("button", name="Cancel a white box").click()
    page.get_by_role("button", name="Keep it").click()
    assert site.generation(generation_id).state != generation_pb2.GENERATION_STATE_CANCELLED
    page.get_by_role("button", name="Cancel a white box").click()
    page.get_by_role("button", name="Cancel it").click()
    page.get_by_role("button", name="Delete a white box").click()
    assert_accessible(page)
    page.get_by_role("button", name="Delete it").click()
    expect(page.locator(".list .open", has_text="a white box")).to_have_count(0)
    with pytest.raises(grpc.RpcError):
        site.generation(generation_id)


def test_everything_can_be_done_with_the_keyboard(site, window):
    page = window(site.url)
    keyboard = page.keyboard

    def tab_to(name):
        """Press Tab until something with this name has the focus."""
        for _ in range(60):
            keyboard.press("Tab")
            if page.evaluate(NAME_OF_FOCUS).startswith(name):
                return
        raise AssertionError(f"{name}: Tab does not lead there")

    keyboard.press("Tab")
    assert page.evaluate(NAME_OF_FOCUS) == "Skip to the video"
    keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "viewer"
    page.reload()
    expect(page.locator("#server-state")).to_have_text("Ready")
    tab_to("Prompt")
    keyboard.type("a purple star")
    tab_to("Length")
    keyboard.type("16")
    tab_to("Steps")
    keyboard.type("1")
    tab_to("Make it")
    keyboard.press("Enter")
    expect(page.locator("#viewer-title")).to_have_text("a purple star")
    expect(chip(page)).to_have_text("Done")
    until(page, f"{FRAMES_TO_PLAY} === 16")
    tab_to("Frame")
    shown = []
    for key in ("End", "ArrowLeft", "ArrowLeft", "ArrowRight", "PageDown", "Home", "ArrowLeft", "PageUp"):
        keyboard.press(key)
        shown.append(frame_shown(page))
    assert shown == [15, 14, 13, 14, 6, 0, 0, 8]
    page.evaluate("document.querySelector('video').loop = true")  # or it is over before the button is reached
    keyboard.press(" ")
    until(page, "!document.querySelector('video').paused")
    tab_to("Pause")
    keyboard.press("Enter")
    until(page, "document.querySelector('video').paused")
    tab_to("Delete a purple star")
    keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    assert site.newest().resolved_spec.prompt == "a purple star"


NAME_OF_FOCUS = """(() => {
  const element = document.activeElement;
  return element.getAttribute("aria-label") ?? element.labels?.[0]?.textContent ?? element.textContent ?? "";
})()"""


@pytest.mark.parametrize(
    "options",
    [{}, {"color_scheme": "dark"}, {"viewport": {"width": 390, "height": 844}}],
    ids=["light", "dark", "phone"],
)
def test_no_rule_of_accessibility_is_broken(site, window, options):
    page = window(f"{site.url}#{site.done_id}", reduced_motion="reduce", **options)
    until(page, f"{FRAMES_TO_PLAY} === 24")
    assert page.evaluate("document.querySelector('video').paused"), "nothing moves by itself for who does not want it"
    page.get_by_text("More settings").click()
    page.get_by_role("button", name="Add a later prompt").click()
    page.get_by_text("words it knows").click()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "it is wider than the window"
    assert_accessible(page)
