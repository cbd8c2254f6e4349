"""What makes batching services hang: clients that leave, passes that raise, sizes that raise, ends in the middle.

Each time every item is answered, once, or nobody waits for it any more.
"""

import asyncio
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import pytest

from reward_service.batcher import Batcher
from reward_service.scorer import Encoded
from service.problem import ProblemError
from wire.base import Message, Prompt
from wire.reward import Score, ScoreItem

PATIENCE_S = 60


class Unsized(list):
    """Token ids that cannot be counted."""

    def __len__(self) -> int:
        raise ZeroDivisionError("no length")


class FakeScorer:
    """Scores a completion by the number in it; what it does to odd ones stands in its methods."""

    num_kept = None

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.passes: list[list[int]] = []
        self.in_pass = threading.Event()
        self.is_broken = False

    def encode(self, prompt: Prompt, completion: str) -> Encoded:
        if completion == "unsized":
            return Encoded(Unsized(), 3)
        if completion == "crash":
            raise AssertionError("a bug in the encoder")
        number = int(completion.removesuffix("!"))
        return Encoded([-1 if completion.endswith("!") else number] * (number % 7 + 1), number % 7 + 1)

    def encode_messages(self, messages: Sequence[Message]) -> Encoded:
        raise NotImplementedError

    def encode_text(self, text: str, special_tokens: bool) -> Encoded:
        raise NotImplementedError

    def score(self, rows: Sequence[list[int]]) -> list[float]:
        self.in_pass.set()
        assert self.gate.wait(timeout=PATIENCE_S)
        self.passes.append([row[0] for row in rows])
        if self.is_broken or any(row[0] == -1 for row in rows):
            raise RuntimeError("out of memory")
        return [float(row[0]) for row in rows]

    def self_test(self) -> list[str]:
        return ["self-test: out of memory"] if self.is_broken else []


def items(*completions: object) -> list[ScoreItem]:
    return [ScoreItem(id=str(place), prompt="p", completion=str(text)) for place, text in enumerate(completions)]


def numbers(results: Sequence[Score]) -> list[float | None]:
    return [result.score for result in results]


def kinds(results: Sequence[Score]) -> list[str | None]:
    return [result.error.type if result.error else None for result in results]


Use = Callable[[FakeScorer, Batcher, float], Awaitable[None]]


def in_batcher(use: Use, batch_tokens: int = 64, waiting_items: int = 100_000) -> None:
    """Calls `use` with a fake model and the batcher that has loaded it, and stops the batcher in the end."""

    async def run() -> None:
        scorer = FakeScorer()
        batcher = Batcher({"m": lambda: scorer}, batch_tokens, waiting_items)
        batcher.start()
        await batcher.loaded()
        try:
            async with asyncio.timeout(PATIENCE_S):
                await use(scorer, batcher, asyncio.get_running_loop().time() + PATIENCE_S)
        finally:
            scorer.gate.set()
            await batcher.stop()

    asyncio.run(run())


async def until(is_so: Callable[[], bool]) -> None:
    while not is_so():
        await asyncio.sleep(0.005)


def test_ten_thousand_items_at_once_are_answered_once_each() -> None:
    async def use(scorer: FakeScorer, batcher: Batcher, deadline: float) -> None:
        requests = [items(*range(start, start + 100)) for start in range(0, 10_000, 100)]
        answers = await asyncio.gather(*(batcher.score(request, deadline) for request in requests))
        assert [number for answer in answers for number in numbers(answer)] == [float(n) for n in range(10_000)]
        assert Counter(n for one in scorer.passes for n in one) == Counter(range(10_000))

    in_batcher(use, batch_tokens=512)


def test_requests_of_different_clients_share_a_forward_pass() -> None:
    async def use(scorer: FakeScorer, batcher: Batcher, deadline: float) -> None:
        scorer.gate.clear()
        first = asyncio.create_task(batcher.score(items(0), deadline))
        await until(scorer.in_pass.is_set)
        others = [asyncio.create_task(batcher.score(items(number), deadline)) for number in (7, 14, 21)]
        await until(lambda: len(batcher._waiting["m"]) == 3)
        scorer.gate.set()
        assert numbers(await first) == [0.0]
        assert [numbers(await other) for other in others] == [[7.0], [14.0], [21.0]]
        assert scorer.passes == [[0], [7, 14, 21]]

    in_batcher(use)


def test_a_client_that_leaves_takes_its_items_out_of_the_queue() -> None:
    async def use(scorer: FakeScorer, batcher: Batcher, deadline: float) -> None:
        scorer.gate.clear()
        first = asyncio.create_task(batcher.score(items(1), deadline))
        await until(scorer.in_pass.is_set)
        gone = asyncio.create_task(batcher.score(items(2, 3), deadline))
        stays = asyncio.create_task(batcher.score(items(4), deadline))
        await until(lambda: len(batcher._waiting["m"]) == 3)
        gone.cancel()
        await asyncio.wait([gone])
        scorer.gate.set()
        assert numbers(await first) == [1.0]
        assert numbers(await stays) == [4.0]
        assert sorted(n for one in scorer.passes for n in one) == [1, 4]

    in_batcher(use)


def test_items_that_expire_in_the_queue_cost_no_forward_pass() -> None:
    async def use(scorer: FakeScorer, batcher: Batcher, deadline: float) -> None:
        scorer.gate.clear()
        first = asyncio.create_task(batcher.score(items(1), deadline))
        await until(scorer.in_pass.is_set)
        late = await batcher.score(items(2, 3), asyncio.get_running_loop().time() + 0.05)
        assert kinds(late) == ["timeout", "timeout"]
        scorer.gate.set()
        assert numbers(await first) == [1.0]
        assert numbers(await batcher.score(items(5), deadline)) == [5.0]
        assert scorer.passes == [[1], [5]]

    in_batcher(use)


def test_a_poisoned_item_among_a_hundred_is_the_only_one_without_a_score() -> None:
    async def use(scorer: FakeScorer, batcher: Batcher, deadline: float) -> None:
        results = await batcher.score(items(*range(41), "41!", *range(42, 100)), deadline)
        assert numbers(results) == [None if n == 41 else float(n) for n in range(100)]
        assert kinds(results).count("internal") == 1
        # Halving a batch of 100 down to one row fails 7 times at most, and never tries the good rows one by one.
        assert len(scorer.passes) <= 20
        assert batcher.reasons() == []

    in_batcher(use, batch_tokens=10_000)


@pytest.mark.parametrize("odd", ["unsized", "crash"])
def test_an_item_whose_encoding_or_size_raises_fails_alone_and_the_threads_live(odd: str) -> None:
    async def use(scorer: FakeScorer, batcher: Batcher, deadline: float) -> None:
        results = await batcher.score(items(1, odd, 2, odd, *range(3, 80)), deadline)
        assert numbers(results) == [1.0, None, 2.0, None, *map(float, range(3, 80))]
        assert [kind for kind in kinds(results) if kind] == ["internal", "internal"]
        assert numbers(await batcher.score(items(7), deadline)) == [7.0]

    in_batcher(use)


def test_an_exception_while_a_batch_is_put_together_costs_that_batch_only() -> None:
    async def use(scorer: FakeScorer, batcher: Batcher, deadline: float) -> None:
        take = batcher._waiting["m"].take

        def take_once_badly() -> list[object]:
            batcher._waiting["m"].take = take
            raise ArithmeticError("a bug in the sizing")

        batcher._waiting["m"].take = take_once_badly
        assert numbers(await batcher.score(items(1, 2), deadline)) == [1.0, 2.0]

    in_batcher(use)


def test_a_shutdown_finishes_what_it_holds_and_takes_no_more() -> None:
    async def use(scorer: FakeScorer, batcher: Batcher, deadline: float) -> None:
        scorer.gate.clear()
        held = [asyncio.create_task(batcher.score(items(*range(n, n + 50)), deadline)) for n in range(0, 500, 50)]
        await until(scorer.in_pass.is_set)
        stopping = asyncio.create_task(batcher.stop())
        await asyncio.sleep(0)
        with pytest.raises(ProblemError, match="503"):
            await batcher.score(items(1), deadline)
        scorer.gate.set()
        await stopping
        assert [number for task in held for number in numbers(task.result())] == [float(n) for n in range(500)]

    in_batcher(use)


def test_a_model_that_fails_on_everything_is_not_ready_until_it_answers_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reward_service.batcher.TESTED_AGAIN_S", 0.0)

    async def use(scorer: FakeScorer, batcher: Batcher, deadline: float) -> None:
        scorer.is_broken = True
        assert kinds(await batcher.score(items(1, 2), deadline)) == ["internal", "internal"]
        await until(lambda: batcher.reasons() == ["self-test: out of memory"])
        with pytest.raises(ProblemError, match="503"):
            await batcher.score(items(1), deadline)
        scorer.is_broken = False
        await until(lambda: batcher.reasons() == [])
        assert numbers(await batcher.score(items(1), deadline)) == [1.0]

    in_batcher(use)
