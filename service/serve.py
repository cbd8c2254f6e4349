"""Runs an app with uvicorn: one process, one port or two, the bound address told on standard output, a calm end."""

import asyncio
import socket
import sys
from contextlib import ExitStack, suppress
from functools import partial
from types import FrameType
from typing import cast

import uvicorn
from fastapi import FastAPI

from service.logs import catch_all, log_config
from service.protocol import GuardedProtocol
from service.settings import ServiceSettings
from service.traffic import Traffic

KEEP_ALIVE_S = 75
"""Above the client's 5 s: a connection is closed by the side that will not be using it at that moment."""

SHUTDOWN_S = 3
"""For connections that are not in flight any more, but still being written to."""


class _Server(uvicorn.Server):
    """A server that says where it listens once it does, and that answers 503 before it ends.

    A first signal lets nothing more in; what is in flight is finished, then the server ends. A second one ends it as
    uvicorn does.
    """

    def __init__(self, config: uvicorn.Config, announcement: str, traffic: Traffic) -> None:
        super().__init__(config)
        self.announcement = announcement
        self.traffic = traffic
        self.is_told = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.should_exit:
            sys.stdout.write(self.announcement)
            sys.stdout.flush()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.is_told:
            super().handle_exit(sig, frame)
            return
        self.is_told = True
        self._captured_signals.append(sig)
        self.traffic.drain()

    async def on_tick(self, counter: int) -> bool:
        self.should_exit = self.should_exit or self.traffic.is_drained()
        return await super().on_tick(counter)


def run(app: FastAPI, settings: ServiceSettings) -> None:
    """Serve until a signal; prints `NAME listening on URL`. Running requests end before it returns.

    Raises:
        OSError: an address cannot be bound.
        SystemExit: the app did not start.
    """
    catch_all()
    with ExitStack() as stack:
        listeners = [stack.enter_context(bind(settings.host, settings.port))]
        announcement = f"{app.title} listening on {_url(listeners[0])}\n"
        if settings.operations_port is not None:
            host = settings.operations_host or settings.host
            listeners.append(stack.enter_context(bind(host, settings.operations_port, "operations_port")))
            app.state.operations_port = listeners[1].getsockname()[1]
            announcement = f"{app.title} has /metrics and /docs on {_url(listeners[1])}\n{announcement}"
        config = uvicorn.Config(
            app,
            workers=1,
            http=cast("type[asyncio.Protocol]", partial(GuardedProtocol, settings)),  # it is only ever called
            ws="none",
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=SHUTDOWN_S,
            log_config=log_config(settings.log_level),
        )
        server = _Server(config, announcement, app.state.traffic)
        with suppress(KeyboardInterrupt):  # uvicorn raises it once more, after all is done
            server.run(sockets=listeners)
        if not server.started:
            raise SystemExit(3)


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def bind(host: str, port: int, option: str = "--port") -> socket.socket:
    """Return a bound TCP socket; port 0 takes a free one. `option` is what a message tells to change."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host.strip("[]"), port))
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"cannot bind {host}:{port} ({error.strerror}); choose another {option}") from None
    return listener
