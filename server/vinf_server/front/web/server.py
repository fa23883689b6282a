"""The page's HTTP server, in the event loop of the front."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from vinf_server.config import ServeConfig
from vinf_server.flag_values import Address
from vinf_server.front.engine.status import EngineStatus
from vinf_server.front.generations.generations import Generations
from vinf_server.front.metrics import Metrics
from vinf_server.front.rpc.admission import Admission
from vinf_server.front.rpc.doors import Doors
from vinf_server.front.rpc.server import AddressInUseError
from vinf_server.front.rpc.server_info import ServerInfoService
from vinf_server.front.web import errors
from vinf_server.front.web.api import Api
from vinf_server.front.web.guard import Guard, known_names
from vinf_server.front.web.lanes import Lanes
from vinf_server.front.web.videos import Videos
from vinf_server.front.web.who import Who

_log = logging.getLogger(__name__)

_PAGE = Path(__file__).parent / "page"

_MAX_CONNECTIONS = 512
"""Those beyond are answered with 503."""

_BACKLOG = 128


class PageServer:
    """Serves the page until it is stopped.

    Args:
        config: of the front; `web` is set.
        generations: all of them.
        status: of the group.
        metrics: where refused generations are counted.
        info: says what the server is.
        doors: certificates and tokens, those of the gRPC door.
        folder: for encoded videos; it must not exist yet, and goes with the server.
        metrics_address: what the page says about them; None: they are off.
    """

    def __init__(
        self,
        config: ServeConfig,
        *,
        generations: Generations,
        status: EngineStatus,
        metrics: Metrics,
        info: ServerInfoService,
        doors: Doors,
        folder: Path,
        metrics_address: Address | None,
    ) -> None:
        assert config.web is not None
        self._wanted = config.web
        self._doors = doors
        self._lanes = Lanes(status)
        self._videos = Videos(folder)
        api = Api(
            generations=generations,
            admission=Admission(generations, status, metrics),
            info=info,
            lanes=self._lanes,
            videos=self._videos,
            who=Who(doors.tokens),
            facts={"metrics": f"http://{metrics_address}/metrics" if metrics_address is not None else ""},
        )
        routes = [*api.routes(), Mount("/", StaticFiles(directory=_PAGE, html=True))]
        self.app = Guard(
            Starlette(routes=routes, exception_handlers=errors.HANDLERS),
            names=known_names(config.web, config.web_names),
        )
        """What answers; without a network in tests."""
        self._tasks: list[asyncio.Task[None]] = []
        self._server: uvicorn.Server | None = None
        self.address = config.web

    @property
    def url(self) -> str:
        """Where a browser finds the page."""
        return f"{'http' if self._doors.certificates is None else 'https'}://{self.address}/"

    async def start(self) -> None:
        """Listen; raises `AddressInUseError`."""
        listener = _bind(self._wanted)
        self.address = self._wanted.with_port(listener.getsockname()[1])
        certificates = self._doors.certificates
        factory: Callable[[Any, Any], ssl.SSLContext] | None = None
        if certificates is not None:
            factory = lambda _config, _default: certificates.context()  # noqa: E731
        config = uvicorn.Config(
            self.app,
            loop="none",
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level=logging.WARNING,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=_MAX_CONNECTIONS,
            ssl_context_factory=factory,
        )
        self._server = _Server(config)
        self._tasks = [
            asyncio.create_task(self._lanes.run()),
            asyncio.create_task(self._server.serve(sockets=[listener])),
        ]

    async def stop(self, within_s: float) -> None:
        """Take no new requests, let those under way end, and cut off those that do not."""
        assert self._server is not None
        self._server.config.timeout_graceful_shutdown = max(1, round(within_s))
        self._server.should_exit = True
        lanes, serving = self._tasks
        lanes.cancel()
        await asyncio.wait((serving,), timeout=within_s)
        serving.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task
        await self.close()

    async def close(self) -> None:
        """Encode no more; for one that was never started."""
        await self._videos.close()


class _Server(uvicorn.Server):
    """Leaves the signals to the front."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _bind(address: Address) -> socket.socket:
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(target)
            listener.listen(_BACKLOG)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise AddressInUseError(f"cannot serve the page on {address}: {error.strerror or error}") from error
    return listener
