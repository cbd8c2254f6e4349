"""One request to one of a service's replicas: slots, deadline, retries, and HTTP outcomes as our errors.

Everything here runs on the background loop of `wire.loop`.
"""

import asyncio
import time
import uuid
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import httpx
from pydantic import ValidationError

from wire.addresses import each_address, look_up
from wire.base import Problem
from wire.errors import ReplyMalformed, ServiceFailed, ServiceRefused, ServiceTimedOut, ServiceUnreachable
from wire.loop import close_at_end
from wire.replicas import Replica, Replicas
from wire.retry import Patience, backoff, retry_after_s

T = TypeVar("T")

MAX_CONCURRENCY = 16
CONNECT_TIMEOUT_S = 5.0
# Shorter than any server's, so that a connection is not reused in the moment in which the server closes it.
KEEPALIVE_EXPIRY_S = 5.0
# A request that is silent for so long has its replica asked whether it is alive, where there is another replica.
SILENCE_S = 10.0
PROBE_TIMEOUT_S = 10.0
# A service on this machine is never reached through a proxy, whatever the environment says.
NO_PROXY: dict[str, httpx.AsyncBaseTransport | None] = {
    "all://127.0.0.1": None,
    "all://localhost": None,
    "all://[::1]": None,
}


@dataclass(frozen=True)
class Reply:
    """Status and body of an answer."""

    url: str
    status: int
    body: bytes


class Transport:
    """Carries requests to a service at one or several URLs.

    Args:
        url: where the service is, or several places that serve the same.
        token: bearer token, where the service wants one.
        concurrency: requests under way at once, 1 to 16.
        transport: stands in for the network (httpx's seam for tests).
        problem: reads the body of a refusal, and raises ValueError where it is none of this service's.
        service: what should be at the URL, for the message where something else is.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        *,
        token: str | None = None,
        concurrency: int = 8,
        transport: httpx.AsyncBaseTransport | None = None,
        problem: Callable[[bytes], Problem] = Problem.model_validate_json,
        service: str = "a judge or reward service",
    ) -> None:
        if not 1 <= concurrency <= MAX_CONCURRENCY:
            raise ValueError(f"concurrency is {concurrency}; it goes from 1 to {MAX_CONCURRENCY}")
        checked = [_checked_url(one) for one in ([url] if isinstance(url, str) else url)]
        # a stand-in for the network knows nothing of the system's resolver
        self._names = checked if transport is None else []
        self._places = checked if transport is not None else [place for one in checked for place in each_address(one)]
        if not self._places:
            raise ValueError("no URL: give one, as in http://127.0.0.1:8001, or a list of several")
        self._headers = {"content-type": "application/json"} | _authorization(token)
        self._concurrency = concurrency
        self._transport = transport
        self._problem = problem
        self._service = service
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    @property
    def urls(self) -> list[str]:
        """The addresses of the service, as they were last looked up."""
        return list(self._places)

    def _bind(self) -> None:
        # Connections and semaphores belong to one loop; a forked child has another, and starts afresh.
        loop = asyncio.get_running_loop()
        if self._closed:
            raise RuntimeError(f"the client of {', '.join(self.urls)} is closed; make a new one")
        if self._loop is loop:
            return
        self._loop = loop
        self._replicas = Replicas(self._places, self._is_ready, self._find)
        self._slots = asyncio.Semaphore(self._concurrency)
        self._http = httpx.AsyncClient(
            headers=self._headers,
            timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_S, pool=None),
            limits=httpx.Limits(
                max_connections=None, max_keepalive_connections=MAX_CONCURRENCY, keepalive_expiry=KEEPALIVE_EXPIRY_S
            ),
            mounts=NO_PROXY,
            transport=self._transport,
        )
        weakref.finalize(self, _close_later, loop, self._http)
        close_at_end(self)

    async def aclose(self) -> None:
        """Closes the connections. Later requests raise RuntimeError."""
        self._closed = True
        if self._loop is asyncio.get_running_loop():
            await self._http.aclose()

    async def request(
        self, method: str, path: str, parse: Callable[[bytes], T], *, deadline: float, body: bytes | None = None
    ) -> T:
        """Returns the parsed answer; fails over to other replicas and retries as `wire.retry` says.

        Args:
            method: HTTP method.
            path: path of the endpoint, from the slash on.
            parse: makes the answer of a body, or raises ValueError where it is not an answer to this request.
            deadline: time on the `time.monotonic` clock at which to give up, seconds.
            body: JSON bytes.

        Raises:
            ServiceError: whichever failure was the last one.
        """
        self._bind()
        headers = {"x-request-id": uuid.uuid4().hex}
        failed: set[str] = set()
        attempt = partial(self._attempt, method, path, parse, deadline, body, headers, failed)
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                return await backoff(Patience(deadline), attempt)
        except TimeoutError:
            raise ServiceTimedOut(", ".join(self.urls), "no complete answer before the deadline") from None

    async def _attempt(
        self,
        method: str,
        path: str,
        parse: Callable[[bytes], T],
        deadline: float,
        body: bytes | None,
        headers: dict[str, str],
        failed: set[str],
    ) -> T:
        # Where another replica is sound, it is asked at once: only when none is left there is a reason to wait.
        while True:
            async with self._slots:
                replica = self._replicas.pick(failed)
                failed.add(replica.url)
                headers["x-request-timeout-ms"] = str(max(1, int((deadline - time.monotonic()) * 1000)))
                try:
                    answer = self._answer(await self._send(replica, method, path, body, headers), parse)
                except (ServiceUnreachable, ServiceFailed, ReplyMalformed) as error:
                    if not isinstance(error, ServiceFailed) or error.status >= 500:
                        self._replicas.fell_sick(replica)
                    if not self._replicas.has_other(failed):
                        raise
                else:
                    self._replicas.answered(replica)
                    return answer

    def _answer(self, response: httpx.Response, parse: Callable[[bytes], T]) -> T:
        self._raise_for_status(response)
        try:
            return parse(response.content)
        except ValueError as error:
            raise ReplyMalformed(str(response.url), f"not an answer of this protocol: {_why(error)}") from None

    async def ask_each(self, path: str, *, timeout_s: float) -> list[Reply | ServiceUnreachable]:
        """Returns what every replica answers to one GET, whatever its status: one attempt each."""
        self._bind()

        return list(await asyncio.gather(*(self._ask(one, path, timeout_s) for one in self._replicas.all)))

    async def _ask(self, replica: Replica, path: str, timeout_s: float) -> Reply | ServiceUnreachable:
        try:
            async with asyncio.timeout(timeout_s):
                response = await self._exchange(replica, "GET", path, None, {})
        except ServiceUnreachable as error:
            return error
        except ReplyMalformed as error:
            return ServiceUnreachable(error.url, error.detail)
        except TimeoutError:
            return ServiceUnreachable(replica.url + path, f"no answer within {timeout_s:g} s")
        return Reply(str(response.url), response.status_code, response.content)

    async def _is_ready(self, replica: Replica) -> bool:
        # Servers of other people have no such path: it is enough that they answer.
        reply = await self._ask(replica, "/readyz", PROBE_TIMEOUT_S)
        return isinstance(reply, Reply) and reply.status < 500

    async def _find(self) -> list[str]:
        try:
            found = await asyncio.gather(*(asyncio.to_thread(look_up, name) for name in self._names))
        except OSError:
            return []
        self._places = [place for places in found for place in places] or self._places
        return self._places

    async def _send(
        self, replica: Replica, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> httpx.Response:
        """Return the replica's answer. Where it is silent for long and there is another one, it has to be alive."""
        weight = len(body or b"") + 1
        replica.takes(weight)
        sending = asyncio.ensure_future(self._exchange(replica, method, path, body, headers))
        try:
            while not (await asyncio.wait([sending], timeout=SILENCE_S if len(self.urls) > 1 else None))[0]:
                if isinstance(await self._ask(replica, "/livez", PROBE_TIMEOUT_S), ServiceUnreachable):
                    raise ServiceUnreachable(replica.url + path, "it has stopped answering", was_reset=True)
            return sending.result()
        finally:
            replica.outstanding -= weight
            sending.cancel()

    async def _exchange(
        self, replica: Replica, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> httpx.Response:
        url = replica.url + path
        try:
            return await self._http.request(method, url, content=body, headers=headers)
        except httpx.DecodingError as error:
            raise ReplyMalformed(url, f"the reply does not decompress ({error})") from None
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            why = str(error) or type(error).__name__
            raise ServiceUnreachable(
                url, f"nothing answers there ({why}); start the service or correct the URL"
            ) from None
        except httpx.TransportError as error:
            raise ServiceUnreachable(url, f"the connection broke ({type(error).__name__})", was_reset=True) from None

    def _raise_for_status(self, response: httpx.Response) -> None:
        status, url = response.status_code, str(response.url)
        if status == 200:
            return
        try:
            problem = self._problem(response.content)
        except ValueError:
            problem = Problem(title=response.reason_phrase or "no reason given", status=status)
            if 300 <= status < 500:
                problem = problem.model_copy(update={"detail": f"is this the URL of {self._service}?"})
        if 300 <= status < 500 and status not in (408, 425, 429):
            raise ServiceRefused(url, status, problem.title, problem.detail)
        detail = f"{status} {problem.title}" + (f": {problem.detail}" if problem.detail else "")
        raise ServiceFailed(url, status, detail, retry_after_s=retry_after_s(response.headers.get("retry-after")))


def _close_later(loop: asyncio.AbstractEventLoop, http: httpx.AsyncClient) -> None:
    if not loop.is_closed() and not http.is_closed:
        asyncio.run_coroutine_threadsafe(http.aclose(), loop)


def _why(error: ValueError) -> str:
    # The text of a pydantic error quotes the body; its location and type do not.
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        return f"{'.'.join(str(part) for part in first['loc']) or 'body'}: {first['type']}"
    return str(error)


def _checked_url(url: str) -> str:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL("")
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ValueError(f"{url!r} is not the URL of a service; write it as in http://127.0.0.1:8001")
    return url.rstrip("/")


def _authorization(token: str | None) -> dict[str, str]:
    if token is None:
        return {}
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError("the token is empty or has characters that a header cannot carry; is there a newline in it?")
    return {"authorization": f"Bearer {token}"}
