"""One LLM server: requests within its bounds, failures retried within bounds, answers checked before they are read."""

import asyncio
import json
import time
from typing import NamedTuple

import httpx
import orjson
from prometheus_client import CollectorRegistry, Counter

from judge_service.judge import JudgeItem
from judge_service.llm.backend import Ask, Backend, mapping, tokens_of
from judge_service.llm.chat_logprobs import ChatLogprobs
from judge_service.llm.chat_schema import ChatSchema
from judge_service.llm.classify import Classify
from judge_service.llm.decisions import Decisions
from judge_service.llm.settings import LlmUpstream
from judge_service.llm.systemone import SystemOne
from judge_service.llm.token_budget import TokenBudget
from wire.encoding import encode
from wire.errors import ReplyMalformed, ServiceError, ServiceFailed, ServiceRefused, ServiceTimedOut, ServiceUnreachable
from wire.retry import RETRY_AFTER_CEILING_S, Patience, backoff, retry_after_s

BACKENDS: dict[str, type[Backend]] = {
    "systemone": SystemOne,
    "decisions": Decisions,
    "chat_logprobs": ChatLogprobs,
    "chat_schema": ChatSchema,
    "classify": Classify,
}
MOST_BYTES = 4 * 2**20
"""Longest answer read."""
FAILURES_OF_AN_OUTAGE = 3
"""Failed requests in a row after which the upstream counts as failing, until a probe succeeds."""
PROBE = Ask(
    JudgeItem(id="probe", prompt="What is two plus two?", completion="Two plus two is four."),
    {"q1": "Is the completion about numbers?"},
)
PROBE_LIMIT_S = 30.0


class Metrics:
    """What is counted of all upstreams."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter("llm_requests", "requests to an upstream", ("upstream", "status"), registry=registry)


class Reply(NamedTuple):
    """Probability of yes by the question's name, None where the model declines; and what it cost."""

    yes: dict[str, float | None]
    tokens: int


class Upstream:
    """Asks one LLM server.

    Args:
        name: its name in the settings.
        settings: address, shape, model, bounds.
        metrics: where its requests are counted.
        transport: what carries requests; closed by whoever made it.
    """

    def __init__(self, name: str, settings: LlmUpstream, metrics: Metrics, transport: httpx.AsyncBaseTransport) -> None:
        self.name = name
        self.settings = settings
        self.backend = BACKENDS[settings.backend]
        self._url = httpx.URL(f"{settings.url.rstrip('/')}/{self.backend.path}")
        self._transport = transport
        self._requests = metrics.requests
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._budget = TokenBudget(settings.tokens_per_minute)
        self._not_before = 0.0
        self._failures_in_a_row = 0
        self.problem: str | None = "is not probed yet"

    def problems(self) -> list[str]:
        """Return why it cannot answer now; empty when it can."""
        return [] if self.problem is None else [f"LLM upstream '{self.name}' {self.problem}"]

    async def probe(self) -> bool:
        """Ask something harmless; return whether it was answered, by the right model and in the right shape."""
        try:
            await self._ask(PROBE, time.monotonic() + PROBE_LIMIT_S, retries=0)
        except ServiceError as error:
            self.problem = f"does not answer as '{self.settings.backend}': {error.detail}"
            return False
        self.problem, self._failures_in_a_row = None, 0
        return True

    async def ask(self, ask: Ask, deadline: float) -> Reply:
        """Return the answers to questions about one completion.

        Args:
            ask: the questions.
            deadline: time on the `time.monotonic` clock after which nobody waits any more, seconds.

        Raises:
            ServiceError: it did not answer, or answered something else; retries are used up.
        """
        try:
            reply = await self._ask(ask, deadline, self.settings.retries)
        except ServiceError as error:
            self._failures_in_a_row += 1
            if self._failures_in_a_row >= FAILURES_OF_AN_OUTAGE and self.problem is None:
                self.problem = f"fails: {error.detail}"
            raise
        self._failures_in_a_row = 0
        return reply

    async def _ask(self, ask: Ask, deadline: float, retries: int) -> Reply:
        body, _ = encode(self.backend.body(self.settings.model, ask))
        names = list(ask.questions)
        failures: list[ServiceError] = []
        try:
            return await self._attempt(body, names, deadline)
        except ServiceError as error:
            failures.append(error)

        async def again() -> Reply:
            # Begins with the failure that there was: the retry library costs more than the rest of a good request.
            if failures:
                raise failures.pop()
            return await self._attempt(body, names, deadline)

        return await backoff(_Bounded(deadline, retries), again)

    async def _attempt(self, body: bytes, names: list[str], deadline: float) -> Reply:
        estimate = len(body) // 4
        await self._budget.take(estimate)
        # Retry-After holds for the upstream, so everybody waits, not only the request that was told.
        while (pause := self._not_before - time.monotonic()) > 0:
            await asyncio.sleep(pause)
        async with self._slots:
            try:
                content = await self._post(body, deadline)
            except ServiceFailed as error:
                self._requests.labels(self.name, str(error.status)).inc()
                if error.retry_after_s is not None:
                    self._not_before = time.monotonic() + min(error.retry_after_s, RETRY_AFTER_CEILING_S)
                raise
            except ServiceRefused as error:
                self._requests.labels(self.name, str(error.status)).inc()
                raise
            except ServiceError:
                self._requests.labels(self.name, "none").inc()
                raise
        self._requests.labels(self.name, "200").inc()
        reply = self._read(content, names)
        self._budget.correct(estimate, reply.tokens)
        return reply

    def _read(self, content: bytes, names: list[str]) -> Reply:
        try:
            answer = mapping(orjson.loads(content), "the body")
            model = answer.get("model")
            if isinstance(model, str) and not self.settings.is_answer_of(model):
                shown = model if model.isprintable() and len(model) <= 100 else "?"
                raise ValueError(
                    f"it comes from the model '{shown}', not '{self.settings.answers_as or self.settings.model}'; "
                    "set `answers_as` if that is the same one"
                )
            revision = answer.get("revision")
            if isinstance(revision, str) and self.settings.revision and revision != self.settings.revision:
                raise ValueError("it comes from another revision of the model")
            return Reply(self.backend.read(answer, names), tokens_of(answer))
        except ValueError as error:
            what = "it is not JSON" if isinstance(error, json.JSONDecodeError) else str(error)
            raise ReplyMalformed(str(self._url), f"the answer is none to the question: {what}") from None

    async def _post(self, body: bytes, deadline: float) -> bytes:
        """Return the body of a 200. Straight to the transport: no redirect, no cookie, no proxy of the environment."""
        limit_s = min(self.settings.timeout_s, deadline - time.monotonic())
        # The deadline of the whole exchange is asyncio's; httpx's own are per step and would only repeat it.
        headers = {"Host": self._url.netloc.decode("ascii"), "Accept": "application/json", **self._own_headers()}
        request = httpx.Request("POST", self._url, headers=headers, content=body)
        try:
            async with asyncio.timeout(limit_s):
                response = await self._transport.handle_async_request(request)
                try:
                    content = await _read_all(response)
                finally:
                    await response.aclose()
        except TimeoutError:
            if deadline - time.monotonic() <= 0:
                raise ServiceTimedOut(str(self._url), "no complete answer before the deadline") from None
            raise ServiceUnreachable(str(self._url), f"no complete answer within {limit_s:.3g} s") from None
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol) as error:
            raise ServiceUnreachable(str(self._url), f"nothing answers there ({type(error).__name__})") from None
        except httpx.DecodingError:
            raise ReplyMalformed(str(self._url), "the answer does not decompress") from None
        except httpx.TransportError as error:
            why = f"the connection broke ({type(error).__name__})"
            raise ServiceUnreachable(str(self._url), why, was_reset=True) from None
        _raise_for_status(response, str(self._url))
        return content

    def _own_headers(self) -> dict[str, str]:
        try:
            return self.settings.headers()
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "it is no text"
            raise ServiceUnreachable(str(self._url), f"the file of its key cannot be read: {why}") from None


class _Bounded:
    """`wire.retry`'s rules, and a bound on how often they are followed."""

    def __init__(self, deadline: float, retries: int) -> None:
        self._patience = Patience(deadline)
        self._retries_left = retries

    def __call__(self, error: Exception) -> bool | float:
        """Return False to give up, True for the next backoff, or the seconds to wait."""
        self._retries_left -= 1
        return False if self._retries_left < 0 else self._patience(error)


async def _read_all(response: httpx.Response) -> bytes:
    content = bytearray()
    async for part in response.aiter_bytes():
        content += part
        if len(content) > MOST_BYTES:
            raise httpx.DecodingError("the answer is too large")
    return bytes(content)


def _raise_for_status(response: httpx.Response, url: str) -> None:
    status = response.status_code
    if status == 200:
        return
    if 300 <= status < 500 and status not in (408, 425, 429):
        raise ServiceRefused(url, status, response.reason_phrase, "")
    wait_s = retry_after_s(response.headers.get("retry-after"))
    raise ServiceFailed(url, status, f"answers {status}", retry_after_s=wait_s)
