"""The way of an item through the service: encoded in one thread, joined with others, scored in another.

    request -> Ticket -> encoder thread -> Waiting (one per model) -> inference thread -> Ticket -> answer

Requests of all clients share forward passes. Whatever a step of a thread raises costs the items that it was about and
no others, and the next step begins.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

from reward_service.errors import EncodingRefused, ModelRefused
from reward_service.items import Item
from reward_service.scorer import Scorer, encoded, failed, scored_apart
from reward_service.ticket import Row, Ticket
from reward_service.waiting import Waiting
from service.problem import ProblemError, crash_site
from wire.reward import Score

LOG = logging.getLogger("service.reward")
# Items encoded in one step: few, so that a small request behind a large one has its turn soon.
ENCODED_AT_ONCE = 32
TESTED_AGAIN_S = 10.0
TRIES = 3
NOT_LOADED = "the reward model is not loaded yet"


class Batcher:
    """Owns the models and their two threads; knows whether each model is ready.

    Args:
        models: by name, what loads each; the first one is asked where a request names none.
        batch_tokens: tokens in one forward pass, padding among them.
        waiting_items: items accepted and not yet answered.
    """

    def __init__(self, models: Mapping[str, Callable[[], Scorer]], batch_tokens: int, waiting_items: int) -> None:
        self._loads = dict(models)
        self._waiting_items = waiting_items
        self._num_waiting = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._scorers: dict[str, Scorer] = {}
        self._problems = {name: [NOT_LOADED] for name in models}
        self._tested_at = dict.fromkeys(models, 0.0)
        self._loading: asyncio.Future[None] | None = None
        self._draining = False
        self._encoder = ThreadPoolExecutor(max_workers=1, thread_name_prefix="reward-encoder")
        self._inference = ThreadPoolExecutor(max_workers=1, thread_name_prefix="reward-model")
        # The lock guards what follows, which the event loop and both threads touch.
        self._lock = threading.Lock()
        self._unencoded: deque[Ticket] = deque()
        self._waiting = {name: Waiting(batch_tokens) for name in models}
        self._encodes = False
        self._infers = False
        self._in_forward: list[Row] = []
        self._num_stuck = 0

    def start(self) -> None:
        """Begin to load and test the models; `reasons()` tells when that is done."""
        self._loading = asyncio.get_running_loop().run_in_executor(self._inference, self._load_and_test)

    async def stop(self) -> None:
        """Take nothing more, finish what is held, and end the threads."""
        self._draining = True
        await self._idle.wait()
        await asyncio.to_thread(self._encoder.shutdown, wait=True, cancel_futures=True)
        await asyncio.to_thread(self._inference.shutdown, wait=True, cancel_futures=True)

    async def loaded(self) -> None:
        """Return once the models are loaded and tested, whatever came of it."""
        if self._loading is not None:
            await asyncio.wait([self._loading])

    def reasons(self, model: str | None = None) -> list[str]:
        """Return why a model, or any of them, gives no scores; nothing where all is well."""
        if self._draining:
            return ["the service is shutting down"]
        loading = self._loading
        if loading is not None and loading.done() and not loading.cancelled() and (error := loading.exception()):
            return [f"the reward model failed to load: {crash_site(error)}"]
        names = [model] if model else list(self._problems)
        self._test_again(names)
        return [problem for name in names for problem in self._problems[name]]

    async def score(self, items: Sequence[Item], deadline: float, model: str | None = None) -> list[Score]:
        """Return the items' scores in their order; what the deadline leaves out gets a timeout error.

        Where the caller is cancelled, the items that are not in a forward pass yet are dropped.

        Args:
            items: what to score.
            deadline: when to answer, seconds of the event loop's clock.
            model: which of the models; the first one by default.

        Raises:
            ProblemError: 422 for a model that is not there, 503 where it is not ready, 429 where too many items wait.
        """
        name = self.named(model)
        if reasons := self.reasons(name):
            raise ProblemError(503, "not ready", "; ".join(reasons), {"Retry-After": "5"})
        if self._num_waiting and self._num_waiting + len(items) > self._waiting_items:
            detail = f"{self._num_waiting} items wait, at most {self._waiting_items}; ask again later"
            raise ProblemError(429, "queue full", detail, {"Retry-After": "1"})
        ticket = Ticket(name, items)
        self._num_waiting += len(items)
        self._idle.clear()
        try:
            with self._lock:
                self._unencoded.append(ticket)
                self._begin_encoding()
            await ticket.answered(deadline)
        finally:
            if None in ticket.results:
                with self._lock:
                    self._waiting[name].drop(ticket)
            self._num_waiting -= len(items)
            if not self._num_waiting:
                self._idle.set()
        return [result or _late(item) for item, result in zip(items, ticket.results, strict=True)]

    def named(self, model: str | None) -> str:
        """Return the name of the model that is meant; None means the first one.

        Raises:
            ProblemError: 422 for a model that is not there.
        """
        name = next(iter(self._loads)) if model is None else model
        if name not in self._loads:
            known = ", ".join(self._loads)
            raise ProblemError(422, "no such model", f"model: the models here are: {known}; leave it out for the first")
        return name

    # The encoder thread: one step encodes some items of one request, which then queues up again.

    def _begin_encoding(self) -> None:
        """Start a step where none runs and there is work. The caller holds the lock."""
        if self._encodes or not self._unencoded:
            return
        self._encodes = True
        ticket = self._unencoded.popleft()
        self._encoder.submit(self._encode_step, ticket)

    def _encode_step(self, ticket: Ticket) -> None:
        rows: list[Row] = []
        with _Step(lambda error: self._encoded(ticket, rows, error)):
            self._encode_some(ticket, rows)

    def _encode_some(self, ticket: Ticket, rows: list[Row]) -> None:
        scorer = self._scorers[ticket.model]
        for _ in range(ENCODED_AT_ONCE):
            index = ticket.begin()
            if index is None:
                return
            item = ticket.items[index]
            try:
                read = encoded(scorer, item)
            except EncodingRefused as error:
                ticket.settle(index, failed(item, "invalid_item", str(error)))
                continue
            # Measured here, where an odd row costs nobody else: later steps only add these numbers up.
            rows.append(Row(ticket, index, read.ids, len(read.ids), read.num_tokens))

    def _encoded(self, ticket: Ticket, rows: list[Row], error: BaseException | None) -> None:
        if error:
            index = ticket.num_begun - 1
            ticket.settle(index, failed(ticket.items[index], "internal", f"encoding failed: {type(error).__name__}"))
        with self._lock:
            self._encodes = False
            if ticket.is_open:
                self._waiting[ticket.model].add(rows)
                if ticket.num_begun < len(ticket.items):
                    self._unencoded.append(ticket)
            self._begin_encoding()
            self._begin_inference()

    # The inference thread: one step is one batch.

    def _begin_inference(self) -> None:
        """Start a step where a batch is there: a full one, or all that will come. The caller holds the lock."""
        waiting = [one for one in self._waiting.values() if one]
        if self._infers or not waiting or (self._encodes and not any(one.fills_a_batch for one in waiting)):
            return
        self._infers = True
        self._in_forward = []
        self._inference.submit(self._infer_step)

    def _infer_step(self) -> None:
        with _Step(self._inferred):
            self._infer()

    def _infer(self) -> None:
        with self._lock:
            name = min(
                (name for name, rows in self._waiting.items() if rows), key=lambda name: self._waiting[name].since
            )
            batch = self._waiting[name].take()
            self._in_forward = batch
        if not batch:
            return
        for row, score in zip(batch, scored_apart(self._scorers[name], batch), strict=True):
            row.ticket.settle(row.index, score)
        results = [row.ticket.results[row.index] for row in batch]
        if all(score is not None and score.error and score.error.type == "internal" for score in results):
            self._test(name)

    def _inferred(self, error: BaseException | None) -> None:
        with self._lock:
            self._num_stuck = self._num_stuck + 1 if error and not self._in_forward else 0
            lost = self._in_forward if error else []
            if self._num_stuck > TRIES:  # no batch can be put together: better no scores than no answer
                lost = [row for waiting in self._waiting.values() for row in waiting.clear()]
            for row in lost:
                row.ticket.settle(row.index, failed(row, "internal", f"scoring failed: {type(error).__name__}"))
            self._infers = False
            self._in_forward = []
            self._begin_inference()

    # Loading and testing, in the inference thread.

    def _load_and_test(self) -> None:
        for name, load in self._loads.items():
            try:
                self._scorers[name] = load()
                self._waiting[name].num_kept = self._scorers[name].num_kept
            except ModelRefused as error:
                self._problems[name] = [str(error)]
            else:
                self._test(name)

    def _test(self, name: str) -> None:
        self._problems[name] = self._scorers[name].self_test()
        self._tested_at[name] = time.monotonic()

    def _test_again(self, names: Sequence[str]) -> None:
        """Have a model that failed tested anew, once in a while: what another process took may be free again."""
        now = time.monotonic()
        for name in names:
            if self._problems[name] and name in self._scorers and now - self._tested_at[name] > TESTED_AGAIN_S:
                self._tested_at[name] = now
                self._inference.submit(self._test, name)


class _Step:
    """Ends a step of a thread: tells `ended` what it raised, if anything, and lets the thread live."""

    def __init__(self, ended: Callable[[BaseException | None], None]) -> None:
        self._ended = ended

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if error is not None:
            LOG.error("a step of the reward model's threads failed: %s", crash_site(error))
        self._ended(error)
        return isinstance(error, Exception)


def _late(item: Item) -> Score:
    return failed(item, "timeout", "not scored by the request's deadline; ask again, or for fewer items at once")
