"""The replicas of a service: which one is asked next, which are left out, and when one is taken back.

A replica that does not answer, or answers 5xx or nonsense, is sick: it is asked only where all are. Requests that come
by later have its /readyz asked, ever more rarely, and it is taken back when that is green. The service's names are
looked up again from time to time, so that replicas may come, go and be replaced under a client that runs.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

FIRST_PROBE_S = 0.25
LONGEST_PROBE_S = 5.0
LOOK_S = 10.0


@dataclass(eq=False)
class Replica:
    """One address of a service.

    Args:
        url: the address.
        outstanding: bytes of the requests that it was sent and has not answered.
        sent: bytes of all requests that it was sent.
        is_sick: whether it is left out.
    """

    url: str
    outstanding: int = 0
    sent: int = 0
    is_sick: bool = False
    num_falls: int = 0
    next_probe: float = 0.0
    probe: asyncio.Task[None] | None = None

    def takes(self, num_bytes: int) -> None:
        """Count a request that it is sent."""
        self.outstanding += num_bytes
        self.sent += num_bytes


class Replicas:
    """All replicas of one service. Belongs to one event loop.

    Args:
        urls: where they are.
        is_ready: whether the /readyz of the replica at a URL is green, or it has none and answers.
        find: where they are now; empty where that cannot be said.
    """

    def __init__(
        self,
        urls: Sequence[str],
        is_ready: Callable[[Replica], Awaitable[bool]],
        find: Callable[[], Awaitable[Sequence[str]]],
    ) -> None:
        self.all = [Replica(url) for url in urls]
        self._is_ready = is_ready
        self._find = find
        self._next_look = time.monotonic() + LOOK_S
        self._look: asyncio.Task[None] | None = None

    def pick(self, failed: set[str]) -> Replica:
        """Return the replica to ask: a sound one that has not failed this request, of those the least busy.

        Args:
            failed: addresses that failed this request; emptied once all have.
        """
        self._look_around()
        self._probe_the_sick()
        if all(replica.url in failed for replica in self.all):
            failed.clear()
        # Of those that are equally busy, as all are in a quiet time, the one that has had the least.
        return min(self.all, key=lambda one: (one.is_sick, one.url in failed, one.outstanding, one.sent))

    def has_other(self, failed: set[str]) -> bool:
        """Return whether a sound replica has not been tried."""
        return any(not replica.is_sick and replica.url not in failed for replica in self.all)

    def fell_sick(self, replica: Replica) -> None:
        """Leave a replica out from now on; one that is alone is never left out."""
        self._next_look = 0.0
        if len(self.all) > 1:
            replica.is_sick = True
            replica.num_falls += 1
            self._next_probe_of(replica)

    def answered(self, replica: Replica) -> None:
        """Take a replica back: it has answered a request as it should."""
        self._is_sound(replica)
        replica.num_falls = 0

    def _is_sound(self, replica: Replica) -> None:
        if replica.is_sick:
            replica.is_sick = False
            # What it missed is not made up for: the others would stand idle meanwhile.
            replica.sent = self._level()

    def _level(self) -> int:
        return max(replica.sent for replica in self.all)

    def _look_around(self) -> None:
        if self._look is None and time.monotonic() >= self._next_look:
            self._look = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        """Let go of replicas that are no longer there, and add new ones; requests under way go on."""
        try:
            if urls := await self._find():
                known = {replica.url: replica for replica in self.all}
                level = self._level()
                self.all = [known.get(url) or Replica(url, sent=level) for url in urls]
        finally:
            self._next_look = time.monotonic() + LOOK_S
            self._look = None

    def _probe_the_sick(self) -> None:
        now = time.monotonic()
        for replica in self.all:
            if replica.is_sick and replica.probe is None and now >= replica.next_probe:
                replica.probe = asyncio.create_task(self._probe(replica))

    async def _probe(self, replica: Replica) -> None:
        try:
            if await self._is_ready(replica):
                self._is_sound(replica)
            else:
                replica.num_falls += 1
        finally:
            self._next_probe_of(replica)
            replica.probe = None

    def _next_probe_of(self, replica: Replica) -> None:
        # One that is green and still fails what it is asked costs ever less.
        wait_s = min(FIRST_PROBE_S * 2 ** min(replica.num_falls - 1, 8), LONGEST_PROBE_S)
        replica.next_probe = time.monotonic() + wait_s
