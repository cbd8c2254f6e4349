"""The model's thread: order, isolation, limits and deadlines, with scorers small enough to read."""

import asyncio
import threading
from collections.abc import Sequence

import pytest

from reward_service.batcher import Batcher
from reward_service.errors import EncodingRefused, ModelRefused
from reward_service.scorer import Encoded
from service.problem import ProblemError
from wire.base import Message, Prompt
from wire.reward import Score, ScoreItem


class LengthScorer:
    """Scores a completion by its length; keeps the sizes of its batches."""

    num_kept = None

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()

    def encode(self, prompt: Prompt, completion: str) -> Encoded:
        if completion == "refused":
            raise EncodingRefused("this conversation is refused")
        return Encoded([ord(letter) for letter in completion], len(completion))

    def encode_messages(self, messages: Sequence[Message]) -> Encoded:
        return self.encode("", messages[-1].content)

    def encode_text(self, text: str, special_tokens: bool) -> Encoded:
        return self.encode("", text)

    def score(self, rows: Sequence[list[int]]) -> list[float]:
        self.gate.wait(timeout=10)
        self.batches.append([len(row) for row in rows])
        if any(ord("!") in row for row in rows):
            raise RuntimeError("this row breaks the batch")
        return [float("nan") if ord("?") in row else float(len(row)) for row in rows]

    def self_test(self) -> list[str]:
        return []


def items(*completions: str) -> list[ScoreItem]:
    return [ScoreItem(id=str(i), prompt="p", completion=text) for i, text in enumerate(completions)]


def run(scorer: LengthScorer, completions: list[str], **settings: int) -> list[Score]:
    async def score() -> list[Score]:
        batcher = Batcher({"m": lambda: scorer}, settings.get("batch_tokens", 100), 1000)
        batcher.start()
        await batcher.loaded()
        try:
            return await batcher.score(items(*completions), asyncio.get_running_loop().time() + 10)
        finally:
            await batcher.stop()

    return asyncio.run(score())


def test_scores_come_back_in_the_order_of_the_items() -> None:
    results = run(LengthScorer(), ["ccc", "a", "bb"])
    assert [(result.id, result.score) for result in results] == [("0", 3.0), ("1", 1.0), ("2", 2.0)]


def test_batches_hold_similar_lengths_within_the_token_budget() -> None:
    scorer = LengthScorer()
    run(scorer, ["a" * length for length in (90, 28, 300, 29, 100, 30)], batch_tokens=120)
    # Sorted 28 29 30 90 100 300: three rows of at most 30 take 90 of 120 tokens; 90, 100 and 300 cannot share.
    assert sorted(scorer.batches) == [[28, 29, 30], [90], [100], [300]]


def test_an_item_that_breaks_its_batch_fails_alone() -> None:
    results = run(LengthScorer(), ["a", "!", "bb"])
    assert [result.score for result in results] == [1.0, None, 2.0]
    assert results[1].error is not None
    assert (results[1].error.type, results[1].error.retryable) == ("internal", True)


def test_an_item_without_a_finite_score_has_an_error_instead() -> None:
    results = run(LengthScorer(), ["a", "?"])
    assert (results[0].score, results[1].score) == (1.0, None)
    assert results[1].error is not None
    assert results[1].error.type == "not_finite"


def test_an_item_that_cannot_be_encoded_fails_alone() -> None:
    results = run(LengthScorer(), ["refused", "a"])
    assert (results[0].score, results[1].score) == (None, 1.0)
    assert results[0].error is not None
    assert (results[0].error.type, results[0].error.retryable) == ("invalid_item", False)


def test_the_deadline_keeps_what_is_done_and_times_the_rest_out() -> None:
    async def score() -> list[Score]:
        scorer = LengthScorer()
        batcher = Batcher({"m": lambda: scorer}, 2, 1000)
        batcher.start()
        await batcher.loaded()
        loop = asyncio.get_running_loop()
        scorer.gate.clear()
        started = loop.time()
        results = await batcher.score(items("aa", "bb"), started + 0.2)
        assert loop.time() - started < 2
        scorer.gate.set()
        await batcher.stop()
        assert scorer.batches == [[2]]  # the second batch was dropped with its deadline
        return results

    assert [result.error.type for result in asyncio.run(score()) if result.error] == ["timeout", "timeout"]


def test_more_items_than_may_wait_are_refused_with_retry_after() -> None:
    async def score() -> None:
        scorer = LengthScorer()
        batcher = Batcher({"m": lambda: scorer}, 100, 2)
        batcher.start()
        await batcher.loaded()
        deadline = asyncio.get_running_loop().time() + 10
        scorer.gate.clear()
        first = asyncio.ensure_future(batcher.score(items("a", "b", "c"), deadline))
        await asyncio.sleep(0)
        with pytest.raises(ProblemError) as refusal:
            await batcher.score(items("d"), deadline)
        assert refusal.value.status == 429
        assert "Retry-After" in refusal.value.headers
        scorer.gate.set()
        assert [result.score for result in await first] == [1.0, 1.0, 1.0]
        await batcher.stop()

    asyncio.run(score())


def test_a_model_that_does_not_load_gives_its_reason() -> None:
    def refuse() -> LengthScorer:
        raise ModelRefused("no weights in here")

    async def reasons() -> list[str]:
        batcher = Batcher({"m": refuse}, 100, 100)
        assert batcher.reasons() == ["the reward model is not loaded yet"]
        batcher.start()
        await batcher.loaded()
        with pytest.raises(ProblemError, match="503"):
            await batcher.score(items("a"), asyncio.get_running_loop().time() + 1)
        reasons = batcher.reasons()
        await batcher.stop()
        return reasons

    assert asyncio.run(reasons()) == ["no weights in here"]
