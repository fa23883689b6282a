"""The page's application without a network, on a front's rooms that a test plays with; and a browser."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import AsyncExitStack, asynccontextmanager
from types import SimpleNamespace

import pytest

from tests.server.conftest import (  # noqa: F401  # fixtures
    checkpoints,
    front_process,
    generations,
    metrics,
    sample,
    spool,
    store,
)
from tests.server.fakes import frame_bytes, model_limits
from vinf.engine.v1 import engine_link_service_pb2 as link_pb2
from vinf_server.config import ServeConfig
from vinf_server.flag_values import Address, RankMesh
from vinf_server.front.engine.status import EngineStatus
from vinf_server.front.rpc.doors import OPEN_DOORS
from vinf_server.front.rpc.server_info import ServerInfoService
from vinf_server.front.web.server import PageServer

HOST = "127.0.0.1:8080"


class Answer:
    """What the application says to one request; its body may still come."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.parts: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.leave = asyncio.Event()

    async def body(self) -> bytes:
        """All of it."""
        parts = []
        while (part := await self.parts.get()) is not None:
            parts.append(part)
        return b"".join(parts)

    async def json(self):
        return json.loads(await self.body())

    async def line(self):
        """The next line of a stream; None at its end."""
        part = await self.parts.get()
        return None if part is None else json.loads(part)


class Browser:
    """Sends requests as a browser's page does."""

    def __init__(self, app, stack: AsyncExitStack) -> None:
        self._app = app
        self._stack = stack

    async def ask(self, method: str, path: str, *, json_body=None, **headers: str | None) -> Answer:
        """Send a request; returns when the answer has begun. A header that is None is left out."""
        sent = {"host": HOST}
        if method not in ("GET", "HEAD"):
            sent |= {"origin": f"http://{HOST}", "content-type": "application/json"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        path, _, query = path.partition("?")
        answer, begun = Answer(), asyncio.Event()
        body = b"" if json_body is None else json.dumps(json_body).encode()
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "root_path": "",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "client": ("127.0.0.1", 40000),
            "server": ("127.0.0.1", 8080),
            "headers": [(name.encode(), value.encode()) for name, value in sent.items() if value is not None],
        }
        requests = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive():
            if requests:
                return requests.pop()
            await answer.leave.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            if message["type"] == "http.response.start":
                answer.status = message["status"]
                answer.headers = {name.decode(): value.decode() for name, value in message["headers"]}
                begun.set()
            elif message.get("body"):
                answer.parts.put_nowait(message["body"])

        async def serve():
            try:
                await self._app(scope, receive, send)
            finally:
                answer.parts.put_nowait(None)
                begun.set()

        task = asyncio.create_task(serve())

        async def end():
            answer.leave.set()
            task.cancel()
            await asyncio.wait((task,))

        self._stack.push_async_callback(end)
        await begun.wait()
        return answer


@pytest.fixture
def page(generations, metrics, tmp_path):  # noqa: F811
    """The application, and a browser."""

    @asynccontextmanager
    async def open_page(doors=OPEN_DOORS, *, is_ready=True, **config):
        status = EngineStatus()
        if is_ready:
            status.known_report = link_pb2.ReadyReport(world_size=2, model=model_limits())
        async with AsyncExitStack() as stack:
            server = PageServer(
                ServeConfig(ranks=2, web=Address("127.0.0.1", 8080), **config),
                generations=generations,
                status=status,
                metrics=metrics,
                info=ServerInfoService(generations, status, max_waiting=3, disk_budget=0, mesh=RankMesh()),
                doors=doors,
                folder=tmp_path / "page",
                metrics_address=Address("127.0.0.1", 9464),
            )
            stack.push_async_callback(server.close)
            browser = Browser(server.app, stack)
            yield SimpleNamespace(ask=browser.ask, generations=generations, status=status, server=server)

    return open_page


@pytest.fixture
def run():
    """Run a scenario, for at most 20 seconds."""
    return lambda scenario: asyncio.run(asyncio.wait_for(scenario, 20))


def request(**fields) -> dict:
    """The body of a request for a generation."""
    return {"spec": {"prompt": "a red circle"} | fields, "detached": True}


async def store_frames(generations, generation, *indices):  # noqa: F811
    """Frames have come from the ranks."""
    for index in indices:
        data = frame_bytes(1, index, generation.frames.frame_size)
        await generation.frames.write(index, 0, data, frame_size=len(data))
        generations.frame_stored(generation)


@pytest.fixture(scope="module")
def chromium():
    """A browser. Its loop runs in this thread meanwhile, so it goes before the next module's tests call asyncio."""
    from playwright.sync_api import expect, sync_playwright

    from tests.web.browser import CHROMIUM, FLAGS, TIMEOUT_S

    if not os.path.exists(CHROMIUM):
        pytest.skip("there is no Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        expect.set_options(timeout=TIMEOUT_S * 1000)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def window(chromium):
    """Open windows; an error in the page's own code, or something its policy forbids, fails the test."""
    from tests.web.browser import TIMEOUT_S

    contexts, errors = [], []

    def open_window(url, **options):
        contexts.append(chromium.new_context(**({"viewport": {"width": 1280, "height": 900}} | options)))
        page = contexts[-1].new_page()
        page.set_default_timeout(TIMEOUT_S * 1000)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if "Policy" in message.text else None)
        page.goto(url)
        return page

    yield open_window
    for context in contexts:
        context.close()
    assert not errors
