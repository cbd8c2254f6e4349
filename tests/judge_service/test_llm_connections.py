"""Connections to LLM servers: one to each request, used again, closed in the end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from judge_service.llm import connections
from judge_service.llm.connections import Connections


class FakeServer:
    """A fake LLM server: says "yes" to each request once `answers` is set, and knows its connections."""

    def __init__(self) -> None:
        self.writers: list[asyncio.StreamWriter] = []
        self.answers = asyncio.Event()
        self.answers.set()
        self.num_open = self.num_asked = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request after the other until the client goes."""
        self.writers.append(writer)
        self.num_open += 1
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                self.num_asked += 1
                await self.answers.wait()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes")
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.num_open -= 1
            writer.close()

    async def until_open(self, number: int) -> None:
        """Wait until so many connections are open."""
        while self.num_open != number:
            await asyncio.sleep(0.001)

    async def until_asked(self, number: int) -> None:
        """Wait until so many requests have come."""
        while self.num_asked != number:
            await asyncio.sleep(0.001)


@asynccontextmanager
async def fake_server() -> AsyncIterator[tuple[FakeServer, str]]:
    fake = FakeServer()
    server = await asyncio.start_server(fake.serve, "127.0.0.1", 0)
    async with server, asyncio.timeout(60):
        yield fake, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"


async def ask(transport: Connections, url: str) -> bytes:
    response = await transport.handle_async_request(httpx.Request("GET", url, headers={"Host": "fake"}))
    try:
        return await response.aread()
    finally:
        await response.aclose()


async def ask_at_once(transport: Connections, fake: FakeServer, url: str, number: int) -> None:
    before = fake.num_asked
    fake.answers.clear()
    asking = [asyncio.create_task(ask(transport, url)) for _ in range(number)]
    await fake.until_asked(before + number)
    fake.answers.set()
    assert await asyncio.gather(*asking) == [b"yes"] * number


def test_requests_at_once_have_a_connection_each_and_later_ones_use_them_again():
    async def run() -> None:
        async with fake_server() as (fake, url):
            transport = Connections()
            for _ in range(3):
                assert await ask(transport, url) == b"yes"
            assert len(fake.writers) == 1
            for _ in range(2):
                await ask_at_once(transport, fake, url, 5)
            assert len(fake.writers) == fake.num_open == 5
            await transport.aclose()
            await fake.until_open(0)

    asyncio.run(run())


def test_each_server_has_connections_of_its_own():
    async def run() -> None:
        async with fake_server() as (one, url), fake_server() as (other, other_url):
            transport = Connections()
            for _ in range(2):
                assert await ask(transport, url) == await ask(transport, other_url) == b"yes"
            assert len(one.writers) == len(other.writers) == 1
            await transport.aclose()

    asyncio.run(run())


def test_a_connection_that_the_server_has_closed_is_replaced():
    async def run() -> None:
        async with fake_server() as (fake, url):
            transport = Connections()
            await ask(transport, url)
            fake.writers[0].close()
            await fake.until_open(0)
            assert await ask(transport, url) == b"yes"
            assert len(fake.writers) == 2
            await transport.aclose()

    asyncio.run(run())


def test_a_connection_of_a_request_that_is_given_up_is_closed():
    async def run() -> None:
        async with fake_server() as (fake, url):
            transport = Connections()
            fake.answers.clear()
            asking = asyncio.create_task(ask(transport, url))
            await fake.until_asked(1)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            fake.answers.set()  # what it would have got is not the answer to the next request
            await fake.until_open(0)
            assert await ask(transport, url) == b"yes"
            await transport.aclose()

    asyncio.run(run())


def test_connections_that_wait_too_long_or_are_too_many_are_closed(monkeypatch):
    async def run() -> None:
        async with fake_server() as (fake, url):
            transport = Connections()
            monkeypatch.setattr(connections, "MOST_KEPT", 3)
            await ask_at_once(transport, fake, url, 5)
            await fake.until_open(3)
            monkeypatch.setattr(connections, "KEPT_S", 0.0)
            await ask(transport, url)
            await fake.until_open(0)
            await transport.aclose()

    asyncio.run(run())


def test_a_connection_in_use_at_the_end_is_closed_with_its_answer():
    async def run() -> None:
        async with fake_server() as (fake, url):
            transport = Connections()
            response = await transport.handle_async_request(httpx.Request("GET", url, headers={"Host": "fake"}))
            await transport.aclose()
            assert fake.num_open == 1
            assert await response.aread() == b"yes"
            await fake.until_open(0)

    asyncio.run(run())


def test_a_server_that_is_down_is_a_connect_error():
    async def run() -> None:
        async with fake_server() as (_, url):
            pass
        with pytest.raises(httpx.ConnectError):
            await ask(Connections(), url)

    asyncio.run(run())
