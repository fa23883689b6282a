"""Pictures of the page for the documents: `docs/images/page-*.png`.

Starts a server with two ranks and a page, uses the page in a headless Chromium as people do, and takes pictures on the
way: previews, the video as it plays while it is made, the seam of a finished one, a bad prompt, a phone, the dark.
"""

from __future__ import annotations

import argparse
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from vinf_client._local import LocalServer

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]
TIMEOUT_S = 600.0
"""Until what is waited for must be there; far more than it takes."""

FRAMES, STEPS = 320, 12
PROMPTS = ("a red ball bouncing over the sea", "a yellow star circling over the city")


def until(is_there: Callable[[], object], what: str) -> None:
    """Wait for something that the server brings about; raises TimeoutError."""
    deadline = time.monotonic() + TIMEOUT_S
    while not is_there():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.05)  # another process: nothing to wait on but the clock


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def window(browser: Browser, url: str, *, width: int, height: int, scale: float, dark: bool = False) -> Iterator[Page]:
    """A window that shows the page."""
    scheme = "dark" if dark else "light"
    context = browser.new_context(
        viewport={"width": width, "height": height}, device_scale_factor=scale, color_scheme=scheme
    )
    page = context.new_page()
    page.goto(url)
    page.get_by_text("Ready", exact=True).wait_for()
    yield page
    context.close()


def take(page: Page, path: Path) -> None:
    """Save the whole page."""
    page.evaluate("document.activeElement?.blur()")
    page.screenshot(path=path, full_page=True)
    print(path)


def buffered_frames(page: Page) -> float:
    """Frames that the browser can play now."""
    rate = "8"
    return float(
        page.evaluate(f"(v => v.buffered.length ? v.buffered.end(0) * {rate} : 0)(document.querySelector('video'))")
    )


def fill_in_the_story(page: Page) -> None:
    """Ask for a video of two scenes."""
    page.get_by_label("Prompt", exact=True).fill(PROMPTS[0])
    page.get_by_label("Length", exact=True).fill(str(FRAMES))
    page.get_by_label("Steps", exact=True).fill(str(STEPS))
    page.get_by_role("button", name="Add a later prompt").click()
    later = page.get_by_role("group", name="Prompt 2")
    later.get_by_label("Prompt", exact=True).fill(PROMPTS[1])
    later.get_by_label("From frame").fill(str(FRAMES * 5 // 8))
    later.get_by_label("Cut: a new scene starts").check()


def main() -> int:
    """Take all pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="folder (default: %(default)s)")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    port = free_port()
    url = f"http://127.0.0.1:{port}/"
    with (
        LocalServer(("--ranks", "2", "--device", "cpu", "--web", f"127.0.0.1:{port}", "--metrics", "127.0.0.1:0")),
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        with window(browser, url, width=1280, height=860, scale=1.5) as page:
            fill_in_the_story(page)
            page.get_by_role("button", name="Make it").click()
            state = page.locator("#viewer-state")
            step = f"step {STEPS // 2}"
            until(
                lambda: page.locator("#previews img").count() == 6 and step in page.locator("#previews").inner_text(),
                step,
            )
            take(page, out / "page-previews.png")
            until(lambda: page.locator("#video").is_visible() and buffered_frames(page) > FRAMES / 3, "frames to play")
            assert "Being made" in state.inner_text(), "it was done before the picture was taken; ask for more frames"
            take(page, out / "page-playing.png")
            until(lambda: "Done" in state.inner_text() and buffered_frames(page) >= FRAMES, "the end")
            page.get_by_role("button", name="Play", exact=True).or_(page.get_by_role("button", name="Pause")).click()
            page.get_by_role("slider").press("Home")
            page.get_by_role("button", name="Next seam").click()
            until(lambda: f"frame {FRAMES // 2} " in page.locator(".place").inner_text(), "the seam")
            take(page, out / "page-done.png")
            with window(browser, page.url, width=1280, height=860, scale=1.5, dark=True) as dark:
                until(lambda: buffered_frames(dark) >= FRAMES, "the video")
                take(dark, out / "page-dark.png")
            with window(browser, page.url, width=390, height=844, scale=2) as phone:
                until(lambda: buffered_frames(phone) >= FRAMES, "the video")
                take(phone, out / "page-phone.png")
        with window(browser, url, width=1280, height=860, scale=1.5) as page:
            page.get_by_label("Prompt", exact=True).fill("a red cat bouncing over the sea")
            page.get_by_label("Length", exact=True).fill("100000")
            page.get_by_role("button", name="Make it").click()
            page.get_by_text("has words this model does not know").wait_for()
            page.locator(".area-new").screenshot(path=out / "page-bad-prompt.png")
            print(out / "page-bad-prompt.png")
        browser.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
