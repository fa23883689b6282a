"""Cases 63 and 74: what a machine has little of, and those who look on."""

from __future__ import annotations

import os
import socket
import threading
import time
import urllib.parse
import urllib.request
from contextlib import ExitStack

import pytest

from tests.cases.conftest import CANARY, TIMEOUT_S, Api
from vinf.v1.server_info_service_pb2 import GetServerInfoRequest

pytestmark = pytest.mark.process


def test_case_63_hardly_any_shared_memory(api: Api, has_small_shm: bool) -> None:
    """Neither vinf nor torch's Gloo group keeps data there: the server of all these cases has 64 KiB of it."""
    if not has_small_shm:
        pytest.skip("a private /dev/shm needs root and mount namespaces")
    ranks = api.info.GetServerInfo(GetServerInfoRequest(), timeout=TIMEOUT_S).server_info.ranks
    assert len(ranks) == 2
    for pid in (api.server.process.pid, *(rank.pid for rank in ranks)):
        folder = f"/proc/{pid}/root/dev/shm"
        room = os.statvfs(folder)
        assert room.f_blocks * room.f_frsize == 64 << 10
        # Semaphores between torchrun and its ranks, a page each.
        assert all(name.startswith("sem.mp-") for name in os.listdir(folder))
        assert room.f_bfree > 0
    assert api.video_of(CANARY) == api.canary


def test_case_74_scrapes_that_hang_and_scrapes_without_end(api: Api, finished: tuple[str, list[bytes]]) -> None:
    url = urllib.parse.urlsplit(api.server.metrics_url)
    assert url.hostname is not None
    done = threading.Event()
    scraped: list[int] = []

    def scrape(number: int) -> None:
        # Ten a second, each of ten.
        begin = time.monotonic() + number / 100
        while not done.wait(max(0.0, begin + len(scraped) / 100 - time.monotonic())):
            with urllib.request.urlopen(api.server.metrics_url, timeout=30) as page:
                scraped.append(len(page.read()))

    with ExitStack() as hanging:
        for words in (b"", b"GET /metrics HTTP/1.1\r\n", b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"):
            for _ in range(10):
                connection = hanging.enter_context(socket.create_connection((url.hostname, url.port or 80), timeout=30))
                connection.sendall(words)
        scrapers = [threading.Thread(target=scrape, args=(number,), daemon=True) for number in range(10)]
        for scraper in scrapers:
            scraper.start()
        try:
            while len(scraped) < 150:
                assert api.frames(finished[0]) == finished[1]
            assert api.video_of(CANARY) == api.canary
        finally:
            done.set()
            for scraper in scrapers:
                scraper.join(40)
    assert not any(scraper.is_alive() for scraper in scrapers)
    assert min(scraped) > 1000
