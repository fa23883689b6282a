"""The composition root of the front: startup, serve, shutdown."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import signal
import threading
import time
from contextlib import AsyncExitStack, suppress
from http.server import HTTPServer
from typing import TYPE_CHECKING

import grpc
from prometheus_client import CollectorRegistry, disable_created_metrics, start_http_server

from vinf_server import logs
from vinf_server.config import ServeConfig
from vinf_server.flag_values import Address, ConfigError
from vinf_server.front.checkpoints import CheckpointStore
from vinf_server.front.data_dir import DataDir
from vinf_server.front.disk import DiskSpace
from vinf_server.front.engine.checkpoint_intake import CheckpointIntake
from vinf_server.front.engine.dispatcher import Dispatcher
from vinf_server.front.engine.drain import finish_or_save
from vinf_server.front.engine.group import Group, Loss
from vinf_server.front.engine.host_link import describe, make_hosts, start_host_link_server, with_token
from vinf_server.front.engine.image_supply import ImageSupply
from vinf_server.front.engine.intake import FrameIntake
from vinf_server.front.engine.link import EngineLink, start_link_server
from vinf_server.front.engine.preview_intake import PreviewIntake
from vinf_server.front.engine.status import EngineStatus
from vinf_server.front.engine.supervisor import Supervisor
from vinf_server.front.engine.trace_intake import TraceIntake
from vinf_server.front.engine.worker_metrics import WorkerMetrics
from vinf_server.front.frames.spool import Spool
from vinf_server.front.generations.generations import Generations
from vinf_server.front.generations.housekeeping import keep_tidy
from vinf_server.front.generations.limits import ClientLimits
from vinf_server.front.generations.queue import GenerationQueue
from vinf_server.front.generations.retention import Retention
from vinf_server.front.generations.store import SqliteStore, StoreError
from vinf_server.front.metrics import Metrics
from vinf_server.front.rpc.doors import Doors
from vinf_server.front.rpc.health import HealthService
from vinf_server.front.rpc.restored import restored_failure
from vinf_server.front.rpc.server import AddressInUseError, check_free, start_public_server
from vinf_server.front.rpc.server_info import ServerInfoService
from vinf_server.front.rpc.video_generation import VideoGenerationService

if TYPE_CHECKING:
    from vinf_server.front.web.server import PageServer

_log = logging.getLogger(__name__)

_STREAM_GRACE_S = 2.0
"""For streams to send their `end` and calls to finish; readers that have stopped reading are cut off."""

_PAGE_GRACE_S = 1.0
"""For the page's streams to end; browsers that have stopped reading are cut off."""

_RANKS_GRACE_S = 4.0
"""For the ranks to leave."""

_SAVE_S = 5.0
"""For the ranks to end their step and save a checkpoint."""


class Front:
    """One front and the group it runs."""

    def __init__(self, config: ServeConfig) -> None:
        self._config = config
        self._stop_requested = asyncio.Event()
        self._doors = Doors.open(config)
        self._data_dir = DataDir(config.data_dir)
        try:
            self._store = SqliteStore(self._data_dir.database)
        except StoreError:
            self._data_dir.close()
            raise
        self._spool = Spool(self._data_dir.spool)
        self._checkpoints = CheckpointStore(self._data_dir.checkpoints)
        disable_created_metrics()  # type: ignore[no-untyped-call]  # they double the page and no dashboard reads them
        self._metrics = Metrics(CollectorRegistry())
        self._generations = Generations(
            store=self._store,
            queue=GenerationQueue(config.max_waiting),
            spool=self._spool,
            checkpoints=self._checkpoints,
            disk=DiskSpace(self._data_dir.root, config.disk_budget),
            retention=Retention(keep_for_s=config.keep_for_s, keep_count=config.keep_count),
            metrics=self._metrics,
            limits=ClientLimits(
                max_waiting=config.max_waiting_per_client, creates_per_minute=config.max_creates_per_minute
            ),
        )
        self._status = EngineStatus()
        self._dispatcher = Dispatcher(self._generations, frame_timeout_s=config.frame_timeout_s)
        self._worker_metrics = WorkerMetrics(self._metrics)
        self._health = HealthService()
        self._hosts = make_hosts(config)
        self._supervisor = Supervisor(config, self._data_dir, self._status, self, self._metrics, self._hosts)
        self._stop_by = math.inf
        self._listen = config.listen
        self._metrics_address = config.metrics
        self._interceptors: list[grpc.aio.ServerInterceptor] = []
        self._page: PageServer | None = None
        self._info = ServerInfoService(
            self._generations,
            self._status,
            max_waiting=config.max_waiting,
            disk_budget=config.disk_budget or 0,
            mesh=config.mesh,
        )

    async def run(self) -> None:
        """Serve until a signal comes; raises what made serving impossible."""
        await self._run()
        _log.info("vinf has stopped")

    async def _run(self) -> None:
        async with AsyncExitStack() as stack:
            # Undone in the opposite order.
            stack.callback(self._data_dir.close)
            stack.callback(self._store.close)
            stack.callback(self._spool.close)
            stack.callback(self._checkpoints.close)
            self._install_signal_handlers()
            await self._start_telemetry(stack)
            await self._generations.restore()
            lag = self._metrics.process.watch_event_loop()
            for work in (self._generations.verify(), keep_tidy(self._generations), lag):
                stack.push_async_callback(_end_task, asyncio.create_task(work))
            self._start_metrics(stack)
            link = EngineLink(
                self._status,
                self._dispatcher,
                FrameIntake(self._generations, self._dispatcher),
                CheckpointIntake(self._generations),
                PreviewIntake(self._generations),
                TraceIntake(self._generations),
                ImageSupply(self._generations),
                self._worker_metrics,
            )
            link_server = await start_link_server(link, f"unix:{self._data_dir.socket}")
            stack.push_async_callback(link_server.stop, None)
            await self._start_host_link(stack, link)
            public_server = await self._start_public_server()
            stack.push_async_callback(self._stop_ranks)
            stack.push_async_callback(self._end_service, public_server)
            await self._start_page(stack)
            await self._serve()

    # ---- GroupListener ----

    def group_ready(self, group: Group) -> None:
        """Everything is up: say so to everyone who asks."""
        assert group.ready_report is not None
        model = group.ready_report.model.name
        self._worker_metrics.group_ready(group.world_size)
        self._metrics.model_is_known(
            model,
            world_size=group.world_size,
            dtype=self._config.dtype,
            parallel_layout=self._config.mesh.layout(group.world_size),
        )
        if not self._stop_requested.is_set():
            self._metrics.ready.set(1)
            self._health.set_ready(True)
        device = group.ranks[0].beat.device.partition(":")[0]
        mesh = self._config.mesh.describe(group.world_size)
        _log.info(
            "vinf is ready: %s on %d ranks (%s%s), grpc %s, metrics %s%s",
            *(model, group.world_size, device, f"; {mesh}" if mesh else "", self._listen),
            f"http://{self._metrics_address}/metrics" if self._metrics_address else "off",
            f", page {self._page.url}" if self._page is not None else "",
        )
        self._write_ready_file()
        report = group.ready_report
        self._generations.reject_waiting(lambda spec: restored_failure(spec, report))
        self._dispatcher.group_ready(group)

    def group_lost(self, loss: Loss) -> None:
        """Readiness first: nobody may be sent to a group that is gone."""
        self._health.set_ready(False)
        self._metrics.ready.set(0)
        self._worker_metrics.group_lost()
        self._dispatcher.group_lost(loss)

    # ---- inside ----

    async def _serve(self) -> None:
        """Run the group until somebody asks to stop, or until it cannot be run any more."""
        supervising = asyncio.create_task(self._supervisor.run())
        stopping = asyncio.create_task(self._stop_requested.wait())
        leases = asyncio.create_task(self._generations.leases.run())
        await asyncio.wait((supervising, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        leases.cancel()
        if not supervising.done():
            await self._drain(supervising)
            supervising.cancel()
        with suppress(asyncio.CancelledError):
            await supervising

    async def _drain(self, supervising: asyncio.Task[None]) -> None:
        """Readiness red, nothing new, and time for the generation in work; the ranks are watched meanwhile."""
        _log.info("vinf is stopping")
        grace = self._config.grace_s
        self._stop_by = time.monotonic() + grace
        self._health.set_ready(False)
        self._metrics.ready.set(0)
        await asyncio.wait((supervising,), timeout=self._config.drain_delay_s)
        self._generations.is_accepting = False
        save_by = self._stop_by - min(_STREAM_GRACE_S + _RANKS_GRACE_S, grace / 2)
        finish_by = save_by - min(_SAVE_S, grace / 4)
        working = asyncio.create_task(finish_or_save(self._dispatcher, finish_by=finish_by, save_by=save_by))
        await asyncio.wait((supervising, working), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            working.cancel()
        with suppress(asyncio.CancelledError):
            await working

    async def _end_service(self, public_server: grpc.aio.Server) -> None:
        """`end` on every stream, health watches closed, then no server."""
        self._health.set_ready(False)
        self._metrics.ready.set(0)
        self._generations.drain()
        self._health.close()
        await public_server.stop(min(_STREAM_GRACE_S, self._time_left_s() / 2))
        if self._config.ready_file is not None:
            self._config.ready_file.unlink(missing_ok=True)

    async def _stop_ranks(self) -> None:
        await self._supervisor.stop(within_s=min(_RANKS_GRACE_S, self._time_left_s()))

    def _time_left_s(self) -> float:
        """Until the stop has to be over; never nothing at all, the last steps are short."""
        return max(0.5, self._stop_by - time.monotonic())

    def _install_signal_handlers(self) -> None:
        """Also when started in the background, where a shell has SIGINT ignored."""
        loop = asyncio.get_running_loop()
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, self.request_stop, number)
            # By default it would end the front as no other signal does: at once, and the ranks with it.
            loop.add_signal_handler(signal.SIGHUP, _log.info, "SIGHUP: there is nothing to reload")

    def request_stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Stop in order; asked a second time, stop at once."""
        if not self._stop_requested.is_set():
            self._stop_requested.set()
            return
        _log.warning("second %s: stopping at once", number.name)
        self._supervisor.kill_now()
        self._data_dir.close()
        os._exit(128 + number)

    async def _start_telemetry(self, stack: AsyncExitStack) -> None:
        if self._config.otlp_endpoint is None:
            return
        # Imported here, because whoever does not ask for spans need not have the library.
        from vinf_server.front.rpc.call_spans import CallSpans
        from vinf_server.front.telemetry.export import Telemetry
        from vinf_server.front.telemetry.generations import GenerationSpans

        telemetry = await asyncio.to_thread(Telemetry, self._config.otlp_endpoint)
        stack.push_async_callback(telemetry.close)
        spans = GenerationSpans(telemetry.tracer)
        stack.push_async_callback(spans.close)
        self._generations.life_listeners.append(spans)
        self._interceptors.append(CallSpans(telemetry.tracer))
        logs.trace_id_of = spans.trace_id_of

    def _start_metrics(self, stack: AsyncExitStack) -> None:
        wanted = self._config.metrics
        if wanted is None:
            return
        try:
            server, thread = start_http_server(wanted.port, wanted.host, registry=self._metrics.registry)
        except OSError as error:
            raise AddressInUseError(f"cannot serve metrics on {wanted}: {error.strerror or error}") from error
        self._metrics_address = wanted.with_port(server.server_port)
        stack.callback(_stop_http_server, server, thread)

    async def _start_host_link(self, stack: AsyncExitStack, link: EngineLink) -> None:
        """Let other hosts join, where the group has any."""
        wanted = self._config.hosts
        if wanted is None or self._hosts is None:
            return
        security = with_token(wanted.security, self._data_dir.root / "join-token")
        try:
            check_free(wanted.link)
            server = await start_host_link_server(wanted.link, link, self._hosts, security)
        except OSError as error:
            raise AddressInUseError(f"cannot listen on {wanted.link} for hosts: {error.strerror or error}") from error
        stack.push_async_callback(server.stop, None)
        _log.info("hosts join at %s, %s", self._hosts.link, describe(security))

    async def _start_public_server(self) -> grpc.aio.Server:
        server, self._listen = await start_public_server(
            self._config.listen,
            video_generation=VideoGenerationService(self._generations, self._status, self._metrics),
            server_info=self._info,
            health=self._health,
            metrics=self._metrics,
            doors=self._doors,
            interceptors=self._interceptors,
        )
        return server

    async def _start_page(self, stack: AsyncExitStack) -> None:
        """Serve the page to watch, where it is wanted."""
        if self._config.web is None:
            return
        # Imported here: who does not want it starts faster.
        try:
            from vinf_server.front.web.server import PageServer
        except ModuleNotFoundError as error:
            raise ConfigError(
                "--web", f"needs {error.name}, which is not installed: pip install vinf[server]"
            ) from error

        page = PageServer(
            self._config,
            generations=self._generations,
            status=self._status,
            metrics=self._metrics,
            info=self._info,
            doors=self._doors,
            folder=self._data_dir.private / "page",
            metrics_address=self._metrics_address,
        )
        await page.start()
        stack.push_async_callback(self._stop_page, page)
        self._page = page

    async def _stop_page(self, page: PageServer) -> None:
        self._generations.drain()  # ends its streams
        await page.stop(min(_PAGE_GRACE_S, self._time_left_s() / 4))

    def _write_ready_file(self) -> None:
        """For whoever started the front; complete as soon as it is there."""
        path = self._config.ready_file
        if path is None:
            return
        content = {"listen": str(self._listen), "metrics": _text(self._metrics_address), "pid": os.getpid()}
        if self._page is not None:
            content["web"] = str(self._page.address)
        unfinished = path.with_name(path.name + ".part")
        try:
            unfinished.write_text(json.dumps(content) + "\n")
            unfinished.replace(path)
        except OSError as error:
            _log.error("cannot write %s: %s", path, error.strerror or error)


def _text(address: Address | None) -> str | None:
    return None if address is None else str(address)


async def _end_task(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def _stop_http_server(server: HTTPServer, thread: threading.Thread) -> None:
    server.shutdown()
    server.server_close()
    thread.join()
