"""Connections to LLM servers: each request has one to itself, and leaves it to the next request to the same server.

httpx's pool looks at all its connections several times in every request, so 64 requests at once cost it 64 times as
much as one after the other: more than everything else that a verdict costs. Here every connection is a pool of one.
"""

import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple

import httpx

KEPT_S = 30.0
"""Longest time that a connection waits for its next request."""
MOST_KEPT = 256
"""Connections to one server that wait for their next request."""
_ONE = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=KEPT_S)

_Origin = tuple[str, str, int | None]


class _Kept(NamedTuple):
    """A connection without a request, and since when on the `time.monotonic` clock."""

    since: float
    connection: httpx.AsyncHTTPTransport


class Connections(httpx.AsyncBaseTransport):
    """A transport without a bound of its own: whoever asks bounds how many requests are under way.

    No proxy and no certificate of the environment is used.
    """

    def __init__(self) -> None:
        self._ssl = httpx.create_ssl_context(trust_env=False)
        self._kept: defaultdict[_Origin, deque[_Kept]] = defaultdict(deque)
        self._is_closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Return the answer, its body unread; the connection is free again when the answer is closed.

        Raises:
            httpx.TransportError: there is none.
        """
        kept = self._kept[(request.url.scheme, request.url.host, request.url.port)]
        # The one that waits for the shortest time: the others may become too old.
        connection = kept.pop().connection if kept else self._new()
        try:
            response = await connection.handle_async_request(request)
        except BaseException:
            await connection.aclose()
            raise
        assert isinstance(response.stream, httpx.AsyncByteStream)

        async def release() -> None:
            kept.append(_Kept(time.monotonic(), connection))
            await self._let_go()

        response.stream = _Answer(response.stream, release)
        return response

    def _new(self) -> httpx.AsyncHTTPTransport:
        return httpx.AsyncHTTPTransport(verify=self._ssl, trust_env=False, limits=_ONE)

    async def _let_go(self) -> None:
        """Close the connections that wait for too long, the oldest where there are too many, and all after the end."""
        oldest = time.monotonic() - KEPT_S
        for kept in list(self._kept.values()):
            while kept and (self._is_closed or len(kept) > MOST_KEPT or kept[0].since < oldest):
                await kept.popleft().connection.aclose()

    async def aclose(self) -> None:
        """Close those that wait; each of the others is closed when its answer is."""
        self._is_closed = True
        await self._let_go()


class _Answer(httpx.AsyncByteStream):
    """An answer's body, and what to do when nobody reads it any more."""

    def __init__(self, body: httpx.AsyncByteStream, release: Callable[[], Awaitable[None]]) -> None:
        self._body = body
        self._release = release

    def __aiter__(self) -> AsyncIterator[bytes]:
        return aiter(self._body)

    async def aclose(self) -> None:
        """Give the connection back."""
        try:
            await self._body.aclose()
        finally:
            await self._release()
