"""What is in flight in a service, and whether more may come: the bounds of its queue, and its end."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import Gauge

from service.problem import ProblemError
from service.settings import ServiceSettings

RETRY_AFTER = {"Retry-After": "1"}
DRAINING = "draining: the service was told to end"


class Traffic:
    """Requests with a body that were let in and are not answered yet.

    Args:
        settings: the bounds.
        requests: shows how many there are.
        held: shows how many bytes their bodies have.
    """

    def __init__(self, settings: ServiceSettings, requests: Gauge, held: Gauge) -> None:
        self._settings = settings
        self._requests = requests
        self._held = held
        self._num_requests = 0
        self._num_bytes = 0
        self._draining_since: float | None = None

    @contextmanager
    def one_more(self) -> Iterator["Load"]:
        """Let a request in, and hold its place until it is answered.

        Raises:
            ProblemError: 503 while the service drains, 429 where the queue is full.
        """
        if self._draining_since is not None:
            raise ProblemError(
                503, "draining", "the service is about to end; ask again, or another replica", RETRY_AFTER
            )
        limit = self._settings.queue_limit
        if self._num_requests >= limit:
            raise ProblemError(429, "queue full", f"{limit} requests are in flight; ask again later", RETRY_AFTER)
        load = Load(self)
        self._change(1, 0)
        try:
            yield load
        finally:
            self._change(-1, -load.num_bytes)

    def hold(self, num_bytes: int) -> None:
        """Count bytes of a body.

        Raises:
            ProblemError: 429 where all bodies together are too large.
        """
        limit = self._settings.queue_bytes
        if self._num_bytes + num_bytes > limit:
            detail = f"{limit} bytes of request bodies are in flight; ask again later"
            raise ProblemError(429, "queue full", detail, RETRY_AFTER)
        self._change(0, num_bytes)

    def drain(self) -> None:
        """Let nothing in from now on; what is in flight is finished."""
        if self._draining_since is None:
            self._draining_since = time.monotonic()

    def is_drained(self) -> bool:
        """Return whether the service was told to end and may: all is answered, and it was red for long enough."""
        if self._draining_since is None:
            return False
        waited = time.monotonic() - self._draining_since
        is_done = self._num_requests == 0 and waited >= self._settings.drain_s
        return is_done or waited >= self._settings.drain_timeout_s

    def reasons(self) -> list[str]:
        """Return why the service is not ready for more: because it drains; empty otherwise."""
        return [] if self._draining_since is None else [DRAINING]

    def _change(self, requests: int, num_bytes: int) -> None:
        self._num_requests += requests
        self._num_bytes += num_bytes
        self._requests.set(self._num_requests)
        self._held.set(self._num_bytes)


class Load:
    """The body of one request in flight."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        self.num_bytes = 0

    def hold(self, num_bytes: int) -> None:
        """Count bytes of it; raises as `Traffic.hold` does."""
        self._traffic.hold(num_bytes)
        self.num_bytes += num_bytes
