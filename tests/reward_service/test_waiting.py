"""Which rows make the next batch."""

import asyncio
import random

from reward_service.ticket import Row, Ticket
from reward_service.waiting import Waiting


def owner() -> Ticket:
    async def ticket() -> Ticket:
        return Ticket("m", [])

    return asyncio.run(ticket())


def waiting_of(lengths: list[int], batch_tokens: int) -> Waiting:
    waiting = Waiting(batch_tokens)
    one = owner()
    waiting.add([Row(one, index, [0] * length, length, length) for index, length in enumerate(lengths)])
    return waiting


def batches(waiting: Waiting) -> list[list[int]]:
    taken = []
    while waiting:
        taken.append([row.length for row in waiting.take()])
    return taken


def test_the_batch_of_the_oldest_row_goes_first() -> None:
    # Sorted and cut from the shortest on: 10 10 | 50 | 90; the first to arrive was 50.
    assert batches(waiting_of([50, 90, 10, 10], 64)) == [[50], [90], [10, 10]]


def test_together_they_are_the_batches_of_a_static_pass_over_sorted_rows() -> None:
    lengths = [random.Random(0).randint(1, 300) for _ in range(500)]
    static, group = [], []
    for length in sorted(lengths):
        padded = (len(group) + 1) * length
        padding = padded - sum(group) - length
        if group and (padded > 2048 or padding > max(0.2 * padded, 128)):
            static.append(group)
            group = []
        group.append(length)
    assert sorted(batches(waiting_of(lengths, 2048))) == sorted([*static, group])


def test_a_row_longer_than_the_budget_goes_alone() -> None:
    assert batches(waiting_of([5000, 3, 3], 100)) == [[5000], [3, 3]]


def test_rows_of_very_different_length_do_not_pay_for_one_anothers_padding() -> None:
    # In one pass 2 x 1000 tokens; apart 1000 + 10.
    assert sorted(batches(waiting_of([1000, 10], 2048))) == [[10], [1000]]


def test_nothing_waits_after_everything_was_taken() -> None:
    waiting = waiting_of([1, 2, 3], 100)
    assert len(waiting.take()) == 3
    assert waiting.take() == []
    assert not waiting.fills_a_batch


def rows_of(texts: list[list[int]], num_kept: int | None = 0, batch_tokens: int = 1024) -> tuple[Waiting, list[Row]]:
    waiting = waiting_of([], batch_tokens)
    waiting.num_kept = num_kept
    rows = [Row(owner(), index, ids, len(ids), len(ids)) for index, ids in enumerate(texts)]
    waiting.add(rows)
    return waiting, rows


def texts_of_prompts(num_prompts: int, k: int, prompt_tokens: int, seed: int = 0) -> list[list[int]]:
    """Completions of some prompts, in no order."""
    draw = random.Random(seed)
    prompts = [[draw.randint(1, 900) for _ in range(prompt_tokens)] for _ in range(num_prompts)]
    texts = [prompt + [draw.randint(1, 900) for _ in range(draw.randint(20, 90))] for prompt in prompts * k]
    draw.shuffle(texts)
    return texts


def test_completions_of_one_prompt_make_a_batch_that_the_oldest_row_is_in() -> None:
    waiting, rows = rows_of(texts_of_prompts(6, 8, 400))
    left = list(rows)
    while waiting:
        batch = waiting.take()
        assert len(batch) == 8
        assert left[0] in batch
        assert len({tuple(row.ids[:400]) for row in batch}) == 1
        left = [row for row in left if row not in batch]
    assert not left


def test_what_rows_share_counts_once_against_the_budget_and_the_rest_with_its_padding() -> None:
    waiting, _ = rows_of(texts_of_prompts(1, 40, 400))
    while waiting:
        batch = waiting.take()
        longest = max(row.length for row in batch) - 400
        assert len(batch) == 1 or len(batch) * longest <= 1024


def test_rows_that_share_nothing_or_little_make_the_batches_of_equal_lengths() -> None:
    for prompt_tokens, num_kept in ((0, 0), (30, 30), (30, None), (400, None)):
        texts = texts_of_prompts(1 if prompt_tokens == 30 else 40, 40 if prompt_tokens == 30 else 1, prompt_tokens)
        sharing, _ = rows_of(texts, num_kept)
        plain, _ = rows_of(texts, None)
        assert batches(sharing) == batches(plain)


def test_rows_dropped_or_cleared_are_in_no_later_batch() -> None:
    waiting, rows = rows_of(texts_of_prompts(3, 8, 200))
    waiting.drop(rows[3].ticket)
    taken = waiting.take()
    assert rows[3] not in taken
    left = waiting.clear()
    assert {id(row) for row in [*taken, *left, rows[3]]} == {id(row) for row in rows}
    assert waiting.take() == []
    later = Row(owner(), 0, rows[0].ids, rows[0].length, rows[0].length)
    waiting.add([later])
    assert waiting.take() == [later]
