"""The gate in front of every route: a pure ASGI middleware, outermost, that no request gets around.

It gives each request an id and a deadline, asks for the token, takes the body in (415, 413, 408; 429 and 503 where
`traffic.py` lets nothing in), turns a crash into a 500 problem, counts, and writes one JSON line per request without
any of the user's text.
"""

import asyncio
import contextlib
import logging
import math
import re
import time
import uuid

import orjson
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.body import JSON_TYPE
from service.health import OPEN_PATHS
from service.logs import REQUEST
from service.metrics import Metrics
from service.problem import ProblemError, crash_site, problem_response
from service.settings import ServiceSettings
from service.tokens import Tokens
from service.traffic import Load, Traffic

LOG = logging.getLogger("service.access")
REQUEST_ID = re.compile(r"[A-Za-z0-9._\-]{1,128}")
BODY_METHODS = frozenset({"POST", "PUT", "PATCH"})
LONGEST_DEADLINE_S = 24 * 3600.0
CLOSE = {"Connection": "close"}
"""Sent where the body was not read to its end: the rest of it must not be taken for the next request."""
DISCARD_S = 5.0
"""A refusal waits so long for the rest of the body: a client that still writes would see a reset, not the refusal."""
OPERATIONS_PATHS = frozenset({"/metrics", "/docs", "/openapi.json"})


class Gate:
    """ASGI middleware; see the module. Sets `request.state.request_id` and `request.state.deadline` (loop time, s).

    Args:
        app: what is behind the gate.
        settings: limits and time-outs.
        metrics: where requests are counted.
        traffic: lets requests in.

    Raises:
        ValueError: the token file has no token.
    """

    def __init__(self, app: ASGIApp, settings: ServiceSettings, metrics: Metrics, traffic: Traffic) -> None:
        self.app = app
        self.settings = settings
        self.metrics = metrics
        self.traffic = traffic
        self.tokens = Tokens(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; lifespan events pass through."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        passage = _Passage(scope, send)
        REQUEST.set(passage.request_id)
        try:
            await self._serve(scope, receive, passage)
        except ProblemError as refusal:
            if scope["method"] in BODY_METHODS and not passage.is_read:
                refusal.headers |= CLOSE
                await self._discard(Headers(scope=scope), receive, refusal.status)
            await passage.refuse(refusal.status, refusal.title, refusal.detail, refusal.headers)
        except Exception as error:  # noqa: BLE001  the last line of defence: a bug is a 500 problem, not a reset
            logging.getLogger("service").error("request crashed: %s", crash_site(error))
            if passage.status is not None:
                raise ConnectionAbortedError("the answer broke off; the reason is logged") from None
            await passage.refuse(500, "internal error", "the service failed; the log names this request id", {})
        finally:
            self._report(scope, passage, time.perf_counter() - started)

    async def _serve(self, scope: Scope, receive: Receive, passage: "_Passage") -> None:
        headers = Headers(scope=scope)
        state = scope.setdefault("state", {})
        state["request_id"] = passage.request_id
        self._check_port(scope)
        self._check_token(scope["path"], headers)
        state["deadline"] = asyncio.get_running_loop().time() + self._time_allowed_s(headers)
        if scope["method"] not in BODY_METHODS:
            await self.app(scope, receive, passage.send)
            return
        with self.traffic.one_more() as load:
            body = await self._take_body(headers, receive, load)
            passage.is_read = True
            passage.bytes_in = len(body)
            await self.app(scope, _replay(body, receive), passage.send)

    def _check_port(self, scope: Scope) -> None:
        """Refuse what belongs to the service's other port, where there are two."""
        port = scope["app"].state.operations_port
        path = scope["path"]
        if port is None or path in OPEN_PATHS:
            return
        if (path in OPERATIONS_PATHS) != ((scope.get("server") or ("", None))[1] == port):
            raise ProblemError(404, "not found", "no such path on this port; /metrics and /docs have one of their own")

    def _check_token(self, path: str, headers: Headers) -> None:
        if path in OPEN_PATHS or not self.tokens.are_wanted:
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        is_known = self.tokens.accept(given.strip().encode("latin-1", "replace"))
        if scheme.lower() != "bearer" or not is_known:
            detail = "send the service's token as 'Authorization: Bearer TOKEN'"
            raise ProblemError(401, "unauthorized", detail, {"WWW-Authenticate": "Bearer"})

    def _time_allowed_s(self, headers: Headers) -> float:
        text = headers.get("x-request-timeout-ms")
        if text is None:
            return self.settings.request_timeout_s
        try:
            milliseconds = float(text)
        except ValueError:
            milliseconds = math.nan
        if not 0 <= milliseconds < math.inf:
            raise ProblemError(400, "invalid header", "X-Request-Timeout-Ms must be a number of milliseconds")
        return min(milliseconds / 1000, LONGEST_DEADLINE_S)

    async def _take_body(self, headers: Headers, receive: Receive, load: Load) -> bytes:
        announced = headers.get("content-length", "")
        if announced in ("", "0") and "transfer-encoding" not in headers:
            return b""  # whether that will do is the route's business
        media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != JSON_TYPE:
            raise ProblemError(415, "not JSON", f"send the body as Content-Type: {JSON_TYPE}")
        if headers.get("content-encoding", "identity").strip().lower() != "identity":
            raise ProblemError(415, "compressed body", "send the body without Content-Encoding")
        if announced.isdecimal() and int(announced) > self.settings.body_bytes:
            raise self._too_large()
        try:
            async with asyncio.timeout(self.settings.body_timeout_s):
                return await self._receive_all(receive, load)
        except TimeoutError:
            detail = f"the body did not arrive within {self.settings.body_timeout_s:g} s"
            raise ProblemError(408, "body too slow", detail) from None

    async def _receive_all(self, receive: Receive, load: Load) -> bytes:
        chunks: list[bytes] = []
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ProblemError(400, "client gone", "the connection closed before the body was complete")
            chunk = message.get("body", b"")
            if load.num_bytes + len(chunk) > self.settings.body_bytes:
                raise self._too_large()
            load.hold(len(chunk))
            chunks.append(chunk)
            if not message.get("more_body", False):
                return b"".join(chunks)

    def _too_large(self) -> ProblemError:
        return ProblemError(413, "body too large", f"at most {self.settings.body_bytes} bytes in one body")

    async def _discard(self, headers: Headers, receive: Receive, status: int) -> None:
        """Take in the rest of a body that was refused, for a while; a slow client has had its while."""
        if status == 408 or "expect" in headers:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DISCARD_S):
                while (await receive()).get("more_body", False):
                    pass

    def _report(self, scope: Scope, passage: "_Passage", seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "unmatched")
        status = passage.status or 499
        self.metrics.record(scope["method"], route, status, seconds)
        line = {
            "method": scope["method"][:16],
            "route": route,
            "status": status,
            "ms": round(seconds * 1000, 2),
            "request_id": passage.request_id,
            "bytes_in": passage.bytes_in,
            "bytes_out": passage.bytes_out,
        }
        LOG.info("%s", orjson.dumps(line).decode())


class _Passage:
    """One request's way out: puts the request id on the answer and remembers its status and size."""

    def __init__(self, scope: Scope, send: Send) -> None:
        given = Headers(scope=scope).get("x-request-id", "")
        self.request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        self.status: int | None = None
        self.is_read = False
        self.bytes_in = 0
        self.bytes_out = 0
        self._scope = scope
        self._send = send

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            MutableHeaders(scope=message)["X-Request-ID"] = self.request_id
        else:
            self.bytes_out += len(message.get("body", b""))
        await self._send(message)

    async def refuse(self, status: int, title: str, detail: str, headers: dict[str, str]) -> None:
        response = problem_response(status, title, detail, self.request_id, headers)
        await response(self._scope, _nothing, self.send)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives the body that was read, then what the server has to say (a disconnect)."""
    pending = [body]

    async def replay() -> Message:
        if pending:
            return {"type": "http.request", "body": pending.pop(), "more_body": False}
        return await receive()

    return replay


async def _nothing() -> Message:
    return {"type": "http.disconnect"}
