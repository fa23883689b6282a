"""A TCP proxy that behaves like a bad network: late, slow, cut off, silent, or in crumbs."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

_READ_BYTES = 65_536

_SLOW_PIECE_S = 0.05
"""A slow line brings something this often."""


@dataclass(slots=True)
class Weather:
    """What the network is like now; the defaults are a clear day."""

    delay_s: float = 0.0
    """Added to every piece, in each direction."""

    bytes_per_s: float = 0.0
    """Of each connection and direction; 0: as fast as it goes."""

    piece_bytes: int = 0
    """Everything arrives in writes of so many bytes; 0: as it came."""

    silent: bool = False
    """Nothing passes, and nothing is closed."""


class Proxy:
    """Carries bytes between clients and one server; change `weather` at any time."""

    def __init__(self, upstream: tuple[str, int]) -> None:
        self.weather = Weather()
        self.upstream = upstream
        self.address = ""
        """HOST:PORT for clients, once `start` returned."""

        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._speaking = asyncio.Event()
        self._speaking.set()

    async def start(self) -> None:
        """Listen on a free port of the loopback."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        self.address = f"{host}:{port}"

    async def close(self) -> None:
        """Cut every connection and stop listening."""
        assert self._server is not None
        self._server.close()
        await self.reset()
        await self._server.wait_closed()

    def set_weather(self, weather: Weather) -> None:
        """Change what the network is like, for connections that are open as well."""
        self.weather = weather
        if weather.silent:
            self._speaking.clear()
        else:
            self._speaking.set()

    async def reset(self) -> int:
        """Cut every connection with a TCP reset; returns how many."""
        connections = list(self._connections)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        return len(connections)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await self._carry_both(reader, writer)
        except asyncio.CancelledError:
            pass  # `reset`; asyncio would report a cancelled handler as an error
        finally:
            self._connections.discard(task)

    async def _carry_both(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = [writer]
        try:
            up_reader, up_writer = await asyncio.open_connection(*self.upstream)
            writers.append(up_writer)
            directions = {
                asyncio.create_task(self._carry(reader, up_writer)),
                asyncio.create_task(self._carry(up_reader, writer)),
            }
            try:
                await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for direction in directions:
                    direction.cancel()
                await asyncio.gather(*directions, return_exceptions=True)
        except OSError:
            pass  # nobody listens upstream: the client sees its connection reset
        finally:
            for end in writers:
                end.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_READ_BYTES):
                weather = self.weather
                if weather.delay_s:
                    await asyncio.sleep(weather.delay_s)
                size = weather.piece_bytes or int(weather.bytes_per_s * _SLOW_PIECE_S) or len(data)
                for begin in range(0, len(data), size):
                    await self._speaking.wait()
                    piece = data[begin : begin + size]
                    if weather.bytes_per_s:
                        await asyncio.sleep(len(piece) / weather.bytes_per_s)
                    writer.write(piece)
                    await writer.drain()
                    if weather.piece_bytes:
                        await asyncio.sleep(0)  # or the loop would join the pieces again
