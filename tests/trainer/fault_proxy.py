"""A proxy on loopback between a client and a real service, which spoils what the service answers.

Every POST is passed on and answered by the service; then the fault, if one is set, does with the answer what it likes.
What is not a POST passes, so that the service's own /v1/judges and /readyz are seen; the latter has a fault of its own.
"""

import asyncio
import json
import socket
import struct
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


@dataclass
class Exchange:
    """One answer on its way: what the service said, and the connection to the client."""

    status: int
    body: bytes
    writer: asyncio.StreamWriter

    async def send(self, status: int | None = None, body: bytes | None = None, cut: int = 0, **headers: str) -> None:
        """Answer with a status and a body, the last `cut` bytes of which are promised and not sent."""
        body = self.body if body is None else body
        named = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close", **headers}
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in named.items())
        head = f"HTTP/1.1 {status or self.status} Fault\r\n{lines}\r\n".encode()
        self.writer.write(head + body[: len(body) - cut])
        await self.writer.drain()

    async def results(self, change: Callable[[list[dict[str, Any]]], Any]) -> None:
        """Answer with other results."""
        content = json.loads(self.body)
        content["results"] = change(content["results"]) or content["results"]
        await self.send(body=json.dumps(content).encode())

    def reset(self) -> None:
        """Reset the connection: the client sees ECONNRESET."""
        lingering = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, lingering)
        self.writer.transport.abort()


Fault = Callable[[Exchange], Awaitable[None]]


async def latency(exchange: Exchange) -> None:
    await asyncio.sleep(0.3)
    await exchange.send()


async def reset(exchange: Exchange) -> None:
    exchange.reset()


async def reset_mid_reply(exchange: Exchange) -> None:
    await exchange.send(cut=len(exchange.body) // 2)
    exchange.reset()


async def half_a_reply(exchange: Exchange) -> None:
    await exchange.send(cut=len(exchange.body) // 2)


async def status_500(exchange: Exchange) -> None:
    await exchange.send(500, b"{}")


async def status_429(exchange: Exchange) -> None:
    await exchange.send(429, b"{}")


async def status_503(exchange: Exchange) -> None:
    await exchange.send(503, b"{}", retry_after="0")


async def truncated_json(exchange: Exchange) -> None:
    await exchange.send(body=exchange.body[: len(exchange.body) // 2])


async def one_result_too_few(exchange: Exchange) -> None:
    await exchange.results(lambda results: results[:-1])


async def wrong_order(exchange: Exchange) -> None:
    await exchange.results(lambda results: results[::-1])


async def wrong_ids(exchange: Exchange) -> None:
    await exchange.results(lambda results: [{**one, "id": f"{one['id']}x"} for one in results])


async def not_a_number(exchange: Exchange) -> None:
    def spoil(results: list[dict[str, Any]]) -> None:
        results[0].get("verdicts", results)[0]["score"] = float("nan")

    await exchange.results(spoil)


async def html(exchange: Exchange) -> None:
    await exchange.send(200, b"<html><body>It works!</body></html>", content_type="text/html")


async def slow_drip(exchange: Exchange) -> None:
    await exchange.send(cut=len(exchange.body))
    for byte in exchange.body:
        await asyncio.sleep(0.05)
        exchange.writer.write(bytes([byte]))
        await exchange.writer.drain()


async def hang(exchange: Exchange) -> None:
    await asyncio.sleep(3600)


FAULTS: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (
        latency, reset, reset_mid_reply, half_a_reply, status_500, status_429, status_503, truncated_json,
        one_result_too_few, wrong_order, wrong_ids, not_a_number, html, slow_drip, hang,
    )
}  # fmt: skip


class FaultProxy:
    """A proxy in front of a service, in a thread of its own.

    `fault` is what happens to the next `times` POSTs, for ever where that is None. `refuse()` has the port closed for
    some time, as that of a service that has died.

    Args:
        url: of the service.
    """

    def __init__(self, url: str) -> None:
        self.upstream = urlsplit(url)
        self.fault: Fault | None = None
        self.times: int | None = None
        self.ready_fault: Fault | None = None
        self.num_faults = 0
        self.paths: list[str] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._open: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def set(self, fault: Fault | None, times: int | None = None) -> None:
        """Have a fault happen to the next POSTs, or to none."""
        self.fault, self.times = fault, times

    def refuse(self) -> None:
        """Close the port: connections are refused."""
        self._run(self._close())

    def listen(self) -> None:
        """Open the port again."""
        self._run(self._listen(self.port))

    def __enter__(self) -> "FaultProxy":
        self._thread.start()
        self._run(self._listen(0))
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _run(self, coroutine: Any) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    async def _listen(self, port: int) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        self._server.close()
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        await asyncio.sleep(0.01)  # closed connections are let go of in the loop's next rounds

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._open.add(task)
        try:
            await self._pass_on(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._open.discard(task)
            writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")[:-2]
        kept = [line for line in lines if not line.lower().startswith(("connection:", "accept-encoding:"))]
        length = next((int(line.split(":")[1]) for line in lines if line.lower().startswith("content-length:")), 0)
        body = await reader.readexactly(length)
        self.paths.append(first.split()[1])
        there, back = await asyncio.open_connection(self.upstream.hostname, self.upstream.port)
        back.write("\r\n".join([first, *kept, "connection: close", "", ""]).encode("latin-1") + body)
        answer = await there.read()
        back.close()
        fault = self._next_fault(first)
        if fault is None:
            writer.write(answer)
            await writer.drain()
            return
        answer_head, _, answer_body = answer.partition(b"\r\n\r\n")
        await fault(Exchange(int(answer_head.split()[1]), answer_body, writer))

    def _next_fault(self, first_line: str) -> Fault | None:
        if first_line.startswith("GET /readyz "):
            return self.ready_fault
        if self.times == 0 or not first_line.startswith("POST "):
            return None
        self.times = None if self.times is None else self.times - 1
        self.num_faults += self.fault is not None
        return self.fault
