"""What tests ask of the page in a real Chromium."""

from __future__ import annotations

import time

from axe_playwright_python.sync_playwright import Axe

CHROMIUM = "/usr/bin/chromium"
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]
TIMEOUT_S = 90
"""For what takes a second or two; a loaded machine needs far more."""


def until(page, expression):
    """Wait for something in the page; its policy lets no test do so from within."""
    deadline = time.monotonic() + TIMEOUT_S
    while not (value := page.evaluate(expression)):
        assert time.monotonic() < deadline, f"{expression}: not within {TIMEOUT_S} s"
    return value


def assert_accessible(page):
    results = Axe().run(page)
    assert results.violations_count == 0, results.generate_report()
