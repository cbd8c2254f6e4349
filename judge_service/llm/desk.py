"""The desk at which LLM judges' questions are asked: all about one completion in one request, where the server can.

An item takes one of these ways, and the first that answers is the last:

    nobody to ask -> unknown, unsupported      the guards: says nothing -> violated, no model asked
    the cache -> what was said before          the row lacks something -> unknown, invalid_item
    the upstream -> the judge reads the probabilities; no answer -> unknown, upstream
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import httpx
from prometheus_client import CollectorRegistry, Counter

from judge_service import guards
from judge_service.cache import VerdictCache, key_of
from judge_service.judge import Judge, JudgeItem, Verdict
from judge_service.llm.backend import Ask
from judge_service.llm.connections import Connections
from judge_service.llm.settings import LlmSettings
from judge_service.llm.upstream import Metrics, Reply, Upstream
from judge_service.question import InvalidItem, LlmJudge
from wire.errors import ServiceError, ServiceRefused, ServiceTimedOut
from wire.judge import ErrorType

REFUSED_ITEM = frozenset({400, 413, 422})
"""What an upstream that works otherwise answers to an item that it cannot take: too long, for instance."""


class Task(Protocol):
    """One verdict to be had, as the runner has it."""

    @property
    def slot(self) -> int:
        """Its place in the request."""

    @property
    def judge(self) -> Judge:
        """Who judges."""

    @property
    def item(self) -> JudgeItem:
        """What is judged."""


@dataclass
class Spent:
    """What one request cost; filled while it is worked on."""

    tokens: int = 0
    use_cache: bool = True


class _Wanted(NamedTuple):
    """A judge's questions that have to be asked: names in the request, and where the verdict goes."""

    slot: int
    judge: LlmJudge
    key: bytes
    names: list[str]


@dataclass
class _Batch:
    """What one request to an upstream carries."""

    upstream: Upstream
    item: JudgeItem
    questions: dict[str, str] = field(default_factory=dict)
    wanted: list[_Wanted] = field(default_factory=list)


class Desk:
    """Asks the questions of LLM judges.

    Args:
        settings: the upstreams, who asks which, the cache.
        metrics: where tokens, requests and the cache are counted.
        transport: stands in for the network (httpx's seam for tests).
    """

    def __init__(
        self, settings: LlmSettings, metrics: CollectorRegistry, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self.settings = settings
        self._transport = transport
        self._owns_transport = transport is None
        self._cache = VerdictCache(settings.cache, settings.cache_verdicts, metrics)
        self._counts = Metrics(metrics)
        labels = ("judge", "upstream")
        self._tokens = Counter("llm_tokens", "tokens spent, a request's shared out", labels, registry=metrics)
        self._asked = Counter("llm_judge_requests", "requests that carried its questions", labels, registry=metrics)
        self._unasked = Counter("llm_refused_unasked", "completions that say nothing", ("judge",), registry=metrics)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="llm-desk")
        self._upstreams: dict[str, Upstream] = {}
        self._watch: asyncio.Task[None] | None = None

    def bind(self, judge: Judge) -> None:
        """Tell an LLM judge who answers it; before its first verdict, because its version covers that."""
        if isinstance(judge, LlmJudge):
            name = self.settings.upstream_of(judge.name())
            judge.bind(None if name is None else self.settings.upstreams[name])

    def problems(self) -> list[str]:
        """Return why the upstreams that are needed cannot answer now; empty when they can, or nobody waits for them."""
        if not self.settings.required:
            return []
        if len(self._upstreams) < len(self.settings.upstreams):
            return ["the LLM upstreams are not started"]
        return [problem for upstream in self._upstreams.values() for problem in upstream.problems()]

    def problems_of(self, judge: type[Judge]) -> list[str]:
        """Return why an LLM judge cannot answer now, with the way out; empty for one that can and for other judges."""
        if not issubclass(judge, LlmJudge):
            return []
        name = self.settings.upstream_of(judge.name())
        if name is None:
            return [no_upstream(judge.name())]
        return self._upstreams[name].problems() if name in self._upstreams else ["its upstream is not started"]

    def note_of(self, judge: type[Judge]) -> str:
        """Return who answers an LLM judge, and what the settings say of it; empty for other judges."""
        name = self.settings.upstream_of(judge.name()) if issubclass(judge, LlmJudge) else None
        if name is None:
            return ""
        upstream = self.settings.upstreams[name]
        revision = f" at revision {upstream.revision}" if upstream.revision else ""
        return f"asks {upstream.model}{revision} by {upstream.backend}. {upstream.note}".rstrip(". ") + "."

    async def start(self) -> None:
        """Open the cache and the connections, and begin to probe; returns before the probes are answered."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._cache.open)
        if self._transport is None:
            self._transport = Connections()
        self._upstreams = {
            name: Upstream(name, upstream, self._counts, self._transport)
            for name, upstream in self.settings.upstreams.items()
        }
        self._watch = asyncio.create_task(self._probe_those_that_fail())

    async def stop(self) -> None:
        """Close what `start` opened."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        if self._transport is not None and self._owns_transport:
            await self._transport.aclose()
        await asyncio.get_running_loop().run_in_executor(self._thread, self._cache.close)
        self._thread.shutdown()

    async def _probe_those_that_fail(self) -> None:
        while True:
            failing = [upstream for upstream in self._upstreams.values() if upstream.problem is not None]
            await asyncio.gather(*(upstream.probe() for upstream in failing))
            await self.tend()
            await asyncio.sleep(self.settings.probe_interval_s)

    async def tend(self) -> None:
        """Do what else is due between probes; here nothing is."""

    async def answer(
        self, tasks: Sequence[Task], deliver: Callable[[int, Verdict], None], deadline: float, spent: Spent
    ) -> None:
        """Deliver a verdict for each task, by its slot, each as soon as it is there.

        Args:
            tasks: LLM judges and items.
            deliver: takes slot and verdict.
            deadline: time on the `time.monotonic` clock after which nobody waits any more, seconds.
            spent: where tokens are added up; `use_cache` false asks everything anew, and keeps it.
        """
        loop = asyncio.get_running_loop()
        ready, batches = await loop.run_in_executor(self._thread, self._prepare, tasks, spent.use_cache)
        for slot, verdict in ready:
            deliver(slot, verdict)
        given: list[tuple[bytes, Verdict]] = []
        try:
            await asyncio.gather(*(self._ask(batch, deliver, given, deadline, spent) for batch in batches))
        finally:
            # Not awaited: nobody waits for the file, and what was paid for is kept when the deadline cuts this short.
            if given:
                self._thread.submit(self._cache.keep, given)

    def _prepare(self, tasks: Sequence[Task], use_cache: bool) -> tuple[list[tuple[int, Verdict]], list[_Batch]]:
        """Return the verdicts that need no request, and the requests that the others need."""
        ready: list[tuple[int, Verdict]] = []
        open_tasks: list[tuple[Task, LlmJudge, bytes]] = []
        refusals: dict[int, str | None] = {}
        for task in tasks:
            judge, item = task.judge, task.item
            assert isinstance(judge, LlmJudge)
            if judge.upstream is None:
                ready.append((task.slot, judge.unknown("unsupported", no_upstream(judge.name()))))
                continue
            if id(item) not in refusals:
                refusals[id(item)] = guards.refuse_without_asking(item)
            refusal = refusals[id(item)]
            if refusal is not None:
                self._unasked.labels(judge.name()).inc()
                ready.append((task.slot, judge.violated(refusal)))
                continue
            open_tasks.append((task, judge, key_of(judge, item)))
        found = self._cache.find([(key, judge) for _, judge, key in open_tasks]) if use_cache else {}
        batches: dict[tuple[int, str], list[_Batch]] = {}
        for task, judge, key in open_tasks:
            if key in found:
                ready.append((task.slot, found[key]))
                continue
            try:
                self._add(batches, task, judge, key)
            except InvalidItem as error:
                ready.append((task.slot, judge.unknown("invalid_item", str(error))))
        return ready, [batch for group in batches.values() for batch in group]

    def _add(self, batches: dict[tuple[int, str], list[_Batch]], task: Task, judge: LlmJudge, key: bytes) -> None:
        """Put a judge's questions into the request about its item that has room for them, or into a new one."""
        both = judge.questions(task.item)
        name = self.settings.upstream_of(judge.name())
        assert name is not None
        upstream = self._upstreams[name]
        takes_question = upstream.backend.takes_question
        texts = list(both) if judge.both_polarities and takes_question else [both.satisfied]
        group = batches.setdefault((id(task.item), name), [])
        most = upstream.settings.questions_per_request if upstream.backend.takes_many else 0
        if not group or len(group[-1].questions) + len(texts) > most:
            group.append(_Batch(upstream, task.item))
        batch = group[-1]
        names = [f"q{len(batch.questions) + number}" for number in range(1, len(texts) + 1)]
        batch.questions.update(zip(names, texts, strict=True))
        batch.wanted.append(_Wanted(task.slot, judge, key, names))

    async def _ask(
        self,
        batch: _Batch,
        deliver: Callable[[int, Verdict], None],
        given: list[tuple[bytes, Verdict]],
        deadline: float,
        spent: Spent,
    ) -> None:
        try:
            reply = await self._reply(batch, deadline)
        except ServiceError as error:
            kind, detail = _why_unknown(batch.upstream, error)
            for wanted in batch.wanted:
                deliver(wanted.slot, wanted.judge.unknown(kind, detail))
            return
        spent.tokens += reply.tokens
        share = reply.tokens / len(batch.questions)
        for wanted in batch.wanted:
            labels = (wanted.judge.name(), batch.upstream.name)
            self._tokens.labels(*labels).inc(share * len(wanted.names))
            self._asked.labels(*labels).inc()
            answers = [reply.yes[name] for name in wanted.names]
            known = [answer for answer in answers if answer is not None]
            verdict = (
                wanted.judge.read(*known)
                if len(known) == len(answers)
                else wanted.judge.unknown("abstained", f"the model of '{batch.upstream.name}' declines to answer")
            )
            given.append((wanted.key, verdict))
            deliver(wanted.slot, verdict)

    async def _reply(self, batch: _Batch, deadline: float) -> Reply:
        """Return the answers to all questions of a batch; in one request each where the backend takes one at a time."""
        upstream = batch.upstream
        if upstream.backend.takes_many or len(batch.questions) == 1:
            return await upstream.ask(Ask(batch.item, batch.questions), deadline)
        asks = [Ask(batch.item, {name: text}) for name, text in batch.questions.items()]
        replies = await asyncio.gather(*(upstream.ask(ask, deadline) for ask in asks))
        yes = {name: value for reply in replies for name, value in reply.yes.items()}
        return Reply(yes, sum(reply.tokens for reply in replies))


def no_upstream(judge: str) -> str:
    """Return that a judge has nobody to ask, and the way out."""
    return (
        f"no LLM upstream is configured for the judge '{judge}': give the service one in its settings under "
        f"`llm.upstreams` and name it under `llm.judges.{judge}` or `llm.default`"
    )


def _why_unknown(upstream: Upstream, error: ServiceError) -> tuple[ErrorType, str]:
    """Return error type and detail of a verdict that an upstream did not give. Its address stays with us."""
    if isinstance(error, ServiceTimedOut):
        return "timeout", f"LLM upstream '{upstream.name}': {error.detail}"
    if isinstance(error, ServiceRefused) and error.status in REFUSED_ITEM and upstream.problem is None:
        return "unsupported", f"LLM upstream '{upstream.name}' refuses this item with {error.detail}; is it too long?"
    return "upstream", f"LLM upstream '{upstream.name}': {error.detail}"
