"""Judges x items: every verdict of a request, within its deadline, each by the judge's own means.

Quick judges run in a thread, one hop per chunk; those that can hang in worker processes; those that wait for others as
coroutines; questions for a model are asked at the desk (`llm/desk.py`), all about one completion together. A crash of a
judge is `unknown`, internal; what is not answered at the deadline is `unknown`, timeout. This is the one file that
catches every exception, because a judge is code that anybody may have written.
"""

import asyncio
import contextvars
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client import Counter as CounterMetric
from prometheus_client import Histogram as HistogramMetric

from judge_service.judge import Judge, JudgeItem, Verdict
from judge_service.llm.desk import Desk, Spent
from judge_service.question import LlmJudge
from judge_service.registry import Registry
from service.problem import ProblemError, crash_site
from wire.judge import JudgeDescription, JudgeRequest, JudgeResult, JudgeSpec

if TYPE_CHECKING:
    from judge_service.workers import WorkerPool

LOG = logging.getLogger("judge_service.runner")
THREAD_CHUNK = 256
"""Verdicts of one hop into a thread: many, so that the hop costs nothing; few enough that requests take turns."""
PROCESS_CHUNK = 8
"""Items of one dispatch to a worker process: what waits behind an item that hangs."""
BUCKETS_S = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60)


class Task(NamedTuple):
    """One verdict to be had, and its place in the request."""

    slot: int
    judge: Judge
    item: JudgeItem


def judge_one(judge: Judge, item: JudgeItem, on_crash: Callable[[str], None]) -> Verdict:
    """Return a judge's verdict about one item; a crash is told to `on_crash`, without the item's text.

    A judge that runs in a process and needs more memory or depth than that has was given too much by the completion:
    `violated`. Any other crash is a bug of ours.
    """
    try:
        verdict = judge.judge(item)
        if isinstance(verdict, Verdict):
            return verdict
        on_crash(f"{type(judge).__name__}.judge returned {type(verdict).__name__}, not Verdict")
    except (MemoryError, RecursionError) as error:
        if judge.runs_in == "process":
            return judge.violated(f"too large to judge: {type(error).__name__}")
        on_crash(crash_site(error))
    except Exception as error:  # noqa: BLE001  see the module's docstring
        on_crash(crash_site(error))
    return judge.unknown("internal", "the judge crashed; the service's log says where")


class Runner:
    """Runs the judges of a registry.

    Args:
        registry: the judges there are.
        pool: worker processes for judges that can hang.
        threads: threads for judges that cannot.
        coroutines: calls of waiting judges at once, over all requests.
        metrics: where verdicts are counted, by judge and outcome.
        desk: asks the questions of LLM judges.
    """

    def __init__(
        self,
        registry: Registry,
        pool: "WorkerPool",
        threads: int,
        coroutines: int,
        metrics: CollectorRegistry,
        desk: Desk,
    ) -> None:
        self.registry = registry
        self.pool = pool
        self.desk = desk
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="judge")
        self._waiting = asyncio.Semaphore(coroutines)
        self._verdicts = CounterMetric("verdicts", "verdicts given", ("judge", "outcome"), registry=metrics)
        self._seconds = HistogramMetric(
            "verdict_seconds",
            "time of one verdict; in a worker process the waiting for one is included",
            ("judge",),
            buckets=BUCKETS_S,
            registry=metrics,
        )

    def descriptions(self) -> list[JudgeDescription]:
        """Return what `GET /v1/judges` says of each judge."""
        in_process = self.pool.problems()
        entries = []
        for judge in self.registry.classes.values():
            problems = [*judge.problems(), *self.desk.problems_of(judge)]
            problems += in_process if judge.runs_in == "process" else []
            changes = {"ready": not problems, "problems": problems, "note": self.desk.note_of(judge)}
            entry = self.registry.describe(judge)
            entries.append(entry.model_copy(update=changes))
        return entries

    def close(self) -> None:
        """Let the threads go; the pool is stopped by whoever started it."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def run(self, request: JudgeRequest, deadline: float, spent: Spent | None = None) -> list[JudgeResult]:
        """Return all verdicts of a request, in its order.

        Args:
            request: items and judges.
            deadline: when nobody waits any more, in the event loop's time, seconds.
            spent: where the tokens that LLM judges cost are added up.

        Raises:
            ProblemError: 422, before any work, for a judge or parameter that does not exist.
        """
        names, tasks = self._plan(request)
        slots: list[Verdict | None] = [None] * len(tasks)
        await self._fill(tasks, slots, deadline, spent or Spent())
        verdicts = [slot or late(task.judge) for slot, task in zip(slots, tasks, strict=True)]
        self._count(tasks, verdicts)
        answers = iter(verdicts)
        return [
            JudgeResult(id=item.id, verdicts=[_as_asked(next(answers), name) for name in asked])
            for item, asked in zip(request.items, names, strict=True)
        ]

    def _plan(self, request: JudgeRequest) -> tuple[list[list[str]], list[Task]]:
        """Return, for each item, the names of its judges as asked for; and all tasks in order."""
        defaults = self._make_all(request.judges)
        names, tasks, numbers = [], [], count()
        for position, item in enumerate(request.items):
            if item.judges is None and not defaults:
                detail = f"items.{position}: no judges; list them in the item's `judges` or the request's"
                raise ProblemError(422, "no judges", detail)
            judges = defaults if item.judges is None else self._make_all(item.judges)
            names.append([name for name, _ in judges])
            tasks += [Task(next(numbers), judge, item) for _, judge in judges]
        return names, tasks

    def _make_all(self, specs: Sequence[str | JudgeSpec]) -> list[tuple[str, Judge]]:
        return [(spec if isinstance(spec, str) else spec.name, self.registry.make(spec)) for spec in specs]

    async def _fill(self, tasks: list[Task], slots: list[Verdict | None], deadline: float, spent: Spent) -> None:
        """Put a verdict into each task's slot, until all are there or the deadline is."""
        answerable = []
        for task in tasks:
            field = task.judge.missing(task.item)
            if field is None:
                answerable.append(task)
            else:
                slots[task.slot] = task.judge.unknown("invalid_item", f"the item has no {field}")
        work = [*self._in_threads(answerable, slots, deadline), *self._in_processes(answerable, slots, deadline)]
        work += [*self._in_loop(answerable, slots), *self._at_the_desk(answerable, slots, deadline, spent)]
        if not work:
            return
        _, undone = await asyncio.wait(work, timeout=max(0.0, deadline - asyncio.get_running_loop().time()))
        for future in undone:
            future.cancel()

    def _in_threads(
        self, tasks: list[Task], slots: list[Verdict | None], deadline: float
    ) -> Iterator["asyncio.Future[None]"]:
        quick = [task for task in tasks if task.judge.runs_in == "thread"]
        loop = asyncio.get_running_loop()
        for start in range(0, len(quick), THREAD_CHUNK):
            chunk = quick[start : start + THREAD_CHUNK]
            context = contextvars.copy_context()  # so that a crash is logged with its request's id
            yield loop.run_in_executor(self._executor, context.run, self._judge_chunk, chunk, slots, deadline)

    def _judge_chunk(self, tasks: list[Task], slots: list[Verdict | None], deadline: float) -> None:
        started = time.monotonic()
        for task in tasks:
            if started >= deadline:
                return
            slots[task.slot] = judge_one(task.judge, task.item, _logger(task.judge))
            ended = time.monotonic()
            self._seconds.labels(task.judge.name()).observe(ended - started)
            started = ended

    def _in_processes(
        self, tasks: list[Task], slots: list[Verdict | None], deadline: float
    ) -> Iterator["asyncio.Future[None]"]:
        by_judge: dict[int, list[Task]] = {}
        for task in tasks:
            if task.judge.runs_in == "process":
                by_judge.setdefault(id(task.judge), []).append(task)
        started = time.monotonic()

        for group in by_judge.values():
            seconds = self._seconds.labels(group[0].judge.name())

            def deliver(index: int, verdict: Verdict, observe: Callable[[float], None] = seconds.observe) -> None:
                slots[index] = verdict
                observe(time.monotonic() - started)

            size = max(1, min(PROCESS_CHUNK, len(group) // (2 * self.pool.num_workers)))
            for start in range(0, len(group), size):
                chunk = [(task.slot, task.item) for task in group[start : start + size]]
                yield asyncio.wrap_future(self.pool.submit(group[0].judge, chunk, deadline, deliver))

    def _in_loop(self, tasks: list[Task], slots: list[Verdict | None]) -> Iterator["asyncio.Future[None]"]:
        for task in tasks:
            if task.judge.runs_in == "loop" and not isinstance(task.judge, LlmJudge):
                yield asyncio.ensure_future(self._await_one(task, slots))

    async def _await_one(self, task: Task, slots: list[Verdict | None]) -> None:
        async with self._waiting:
            started = time.monotonic()
            try:
                verdict = await task.judge.judge(task.item)
            except Exception as error:  # noqa: BLE001  see the module's docstring
                _logger(task.judge)(crash_site(error))
                verdict = task.judge.unknown("internal", "the judge crashed; the service's log says where")
            slots[task.slot] = verdict
            self._seconds.labels(task.judge.name()).observe(time.monotonic() - started)

    def _at_the_desk(
        self, tasks: list[Task], slots: list[Verdict | None], deadline: float, spent: Spent
    ) -> Iterator["asyncio.Future[None]"]:
        questions = [task for task in tasks if isinstance(task.judge, LlmJudge)]
        if questions:
            yield asyncio.ensure_future(self._ask(questions, slots, deadline, spent))

    async def _ask(self, tasks: list[Task], slots: list[Verdict | None], deadline: float, spent: Spent) -> None:
        judges = {task.slot: task.judge for task in tasks}
        started = time.monotonic()

        def deliver(slot: int, verdict: Verdict) -> None:
            slots[slot] = verdict
            self._seconds.labels(judges[slot].name()).observe(time.monotonic() - started)

        try:
            await self.desk.answer(tasks, deliver, deadline, spent)
        except Exception as error:  # noqa: BLE001  see the module's docstring
            LOG.error("the desk of the LLM judges crashed: %s", crash_site(error))
            for slot, judge in judges.items():
                slots[slot] = slots[slot] or judge.unknown("internal", "the desk crashed; the service's log says where")

    def _count(self, tasks: list[Task], verdicts: list[Verdict]) -> None:
        given = Counter((task.judge.name(), verdict.outcome) for task, verdict in zip(tasks, verdicts, strict=True))
        for labels, number in given.items():
            self._verdicts.labels(*labels).inc(number)


def late(judge: Judge) -> Verdict:
    """Return the verdict of a judge that the deadline of the request overtook."""
    return judge.unknown("timeout", "the request's deadline passed first; ask again or give it more time")


def _as_asked(verdict: Verdict, name: str) -> Verdict:
    """Return the verdict under the name that the request used; a judge of the settings has two."""
    return verdict if verdict.judge == name else verdict.model_copy(update={"judge": name})


def _logger(judge: Judge) -> Callable[[str], None]:
    return lambda site: LOG.error("judge %s crashed: %s", judge.name(), site)
