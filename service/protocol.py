"""One connection, and how long it may last: uvicorn's protocol, with bounds for what is not yet, or no more, a request.

| a client that | is cut off |
|---|---|
| sends nothing, half a request's headers, or bytes that begin none | after `header_timeout_s`; a 408 where it began |
| sends headers without end, before a body or behind it | at `header_bytes`; a 431 where nothing is answered yet |
| is one too many | at once, with a 503 |
| does not take its answer | where that has not shrunk by 64 KiB in `body_timeout_s` |
| sends what is no HTTP | at once, with a 400 |

What a slow body gets is the gate's business (`gate.py`).
"""

from asyncio import Transport
from asyncio.events import TimerHandle
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.problem import MEDIA_TYPE
from service.settings import ServiceSettings
from wire.base import Problem

PROGRESS_BYTES = 64 * 2**10


class GuardedProtocol(HttpToolsProtocol):
    """The protocol of one connection.

    Args:
        settings: the bounds.
        options: what uvicorn gives to its protocols.
    """

    def __init__(self, settings: ServiceSettings, **options: Any) -> None:
        super().__init__(**options)
        self._settings = settings
        self._header_bytes = 0
        self._unread_bytes = 0
        self._header_timer: TimerHandle | None = None
        self._answer_timer: TimerHandle | None = None
        self._is_begun = False

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Take the connection, or refuse it where there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self._settings.connection_limit:
            self._refuse(503, f"{self._settings.connection_limit} connections are open; ask again later")
        else:
            self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection and its timers."""
        self._headers_are_there()
        self._answer_is_taken()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on; headers that are not complete yet are bounded."""
        if self.transport.is_closing():
            return
        if self._header_timer is not None:
            self._unread_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._header_timer is not None and self._unread_bytes > self._settings.header_bytes:
            self._refuse_headers()
        elif self._header_timer is None and self._is_free():
            self._await_headers()  # bytes that belong to no request: the next one has to come

    def on_message_begin(self) -> None:
        """Begin a request, behind the one before it where a client sends several at once."""
        super().on_message_begin()
        self._is_begun = True
        self._header_bytes = 0
        if self._header_timer is None:
            self._await_headers()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, in front of a body or behind it."""
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > self._settings.header_bytes:
            self._refuse_headers()
            raise ValueError("headers without end")  # so that the parser stops; it tells `send_400_response`
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin to answer."""
        self._is_begun = False
        self._headers_are_there()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """Go on to the next request, or let the client take the rest of the answer and no longer."""
        super().on_response_complete()
        self._end_soon()

    def pause_writing(self) -> None:
        """Wait for the client to take what was written, but not for ever."""
        super().pause_writing()
        if self._answer_timer is None:
            self._watch_answer(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """Go on: the client has taken it."""
        self._answer_is_taken()
        super().resume_writing()
        self._end_soon()

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection on which no next request came."""
        super().timeout_keep_alive_handler()
        self._end_soon()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, as every other refusal is made."""
        self._refuse(400, msg)

    def _await_headers(self) -> None:
        self._header_timer = self.loop.call_later(self._settings.header_timeout_s, self._headers_are_late)

    def _headers_are_there(self) -> None:
        self._unread_bytes = 0
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _headers_are_late(self) -> None:
        self._header_timer = None
        if self._is_begun and self._is_free():
            self._refuse(408, f"the headers did not arrive within {self._settings.header_timeout_s:g} s")
        elif self._is_free():
            self.transport.close()
            self._end_soon()

    def _is_free(self) -> bool:
        """Return whether nothing is being answered, so that something else may be written."""
        return self.cycle is None or self.cycle.response_complete

    def _refuse_headers(self) -> None:
        if self._is_free():
            self._refuse(431, f"at most {self._settings.header_bytes} bytes of headers")
        else:
            self.transport.abort()

    def _refuse(self, status: int, detail: str) -> None:
        if self.transport.is_closing():
            return
        title = HTTPStatus(status).phrase.lower()
        body = Problem(title=title, status=status, detail=detail).model_dump_json().encode()
        lines = [
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
            f"content-type: {MEDIA_TYPE}",
            f"content-length: {len(body)}",
            "retry-after: 1" if status == 503 else "",
            "connection: close",
        ]
        head = "\r\n".join(filter(None, lines))
        self.transport.write(f"{head}\r\n\r\n".encode() + body)
        self._headers_are_there()
        self.transport.close()
        self._end_soon()

    def _end_soon(self) -> None:
        """End a connection that is being closed, also where its client does not take what was written."""
        if self.transport.is_closing() and self._answer_timer is None:
            self.loop.call_later(self._settings.body_timeout_s, self.transport.abort)

    def _watch_answer(self, size: int) -> None:
        self._answer_timer = self.loop.call_later(self._settings.body_timeout_s, self._look_at_answer, size)

    def _look_at_answer(self, size_before: int) -> None:
        size = self.transport.get_write_buffer_size()
        if size > size_before - PROGRESS_BYTES:
            self.transport.abort()
        else:
            self._watch_answer(size)

    def _answer_is_taken(self) -> None:
        if self._answer_timer is not None:
            self._answer_timer.cancel()
            self._answer_timer = None
