"""The proxy changes when bytes arrive, never which."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest

from tests.chaos.proxy import Proxy, Weather

pytestmark = pytest.mark.fast

TEXT = bytes(range(256)) * 40


@contextlib.asynccontextmanager
async def echo_through_proxy():
    async def echo(reader, writer):
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    proxy = Proxy(server.sockets[0].getsockname())
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.close()
        server.close()


async def exchange(proxy, text=TEXT):
    host, port = proxy.address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(text)
        return await asyncio.wait_for(reader.readexactly(len(text)), 10)
    finally:
        writer.transport.abort()


@pytest.mark.parametrize(
    ("weather", "at_least_s"),
    [
        (Weather(), 0),
        (Weather(delay_s=0.1), 0.2),
        (Weather(bytes_per_s=100_000), len(TEXT) / 100_000),
        (Weather(piece_bytes=7), 0),
    ],
    ids=["clear", "delay", "slow", "crumbs"],
)
def test_all_bytes_arrive_in_order(weather, at_least_s):
    async def run():
        async with echo_through_proxy() as proxy:
            proxy.set_weather(weather)
            began = time.monotonic()
            assert await exchange(proxy) == TEXT
            assert time.monotonic() - began >= at_least_s

    asyncio.run(run())


def test_silence_holds_bytes_until_it_ends():
    async def run():
        async with echo_through_proxy() as proxy:
            proxy.set_weather(Weather(silent=True))
            waiting = asyncio.create_task(exchange(proxy))
            done, _ = await asyncio.wait({waiting}, timeout=0.3)
            assert not done
            proxy.set_weather(Weather())
            assert await waiting == TEXT

    asyncio.run(run())


def test_reset_cuts_what_is_open_and_nothing_later():
    async def run():
        async with echo_through_proxy() as proxy:
            host, port = proxy.address.split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
            assert await proxy.reset() == 1
            with contextlib.suppress(ConnectionError):
                assert await asyncio.wait_for(reader.read(), 10) == b""
            writer.transport.abort()
            assert await exchange(proxy) == TEXT

    asyncio.run(run())


def test_nobody_upstream_is_a_closed_connection():
    async def run():
        async with echo_through_proxy() as proxy:
            proxy.upstream = ("127.0.0.1", 1)
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await exchange(proxy)

    asyncio.run(run())
