"""Which rows a step has: each task's share, all rows before any comes again, the same for whoever asks."""

from collections import Counter

import pytest

from trainer.task_order import TaskOrder

ROWS, SIZES = {"a": 5, "b": 3, "c": 16}, {"a": 2, "b": 2, "c": 4}


@pytest.fixture
def order():
    return TaskOrder(ROWS, SIZES, seed=3, epoch=lambda: 0)


def test_every_step_has_each_tasks_batch_size(order):
    # End to end, a has the indices 0 to 4, b 5 to 7, c 8 to 23.
    for step in (0, 1, 7, 1000):
        rows = order.rows_of(step)
        assert [sum(first <= row < last for row in rows) for first, last in ((0, 5), (5, 8), (8, 24))] == [2, 2, 4]


def test_each_task_shows_all_its_rows_before_one_comes_again(order):
    # Five steps: ten places of a are two rounds of its five rows; three steps: six of b are two rounds of its three.
    assert set(Counter(row for step in range(5) for row in order.rows_of(step) if row < 5).values()) == {2}
    assert set(Counter(row for step in range(3) for row in order.rows_of(step) if 5 <= row < 8).values()) == {2}


def test_an_epoch_shows_the_task_with_the_most_batches_once(order):
    assert order.steps_per_epoch == 4  # c: 16 rows, 4 a step; a: 3 steps; b: 2
    rows = list(order)
    assert len(rows) == len(order) == 4 * 8
    assert sorted(row for row in rows if row >= 8) == list(range(8, 24))


def test_a_step_is_the_same_whatever_was_asked_before(order):
    steps = [order.rows_of(step) for step in range(12)]
    assert [TaskOrder(ROWS, SIZES, 3, lambda: 0).rows_of(step) for step in (11, 4, 0)] == [
        steps[11],
        steps[4],
        steps[0],
    ]
    third = TaskOrder(ROWS, SIZES, 3, lambda: 2)
    assert list(third) == [row for step in steps[8:12] for row in step]


def test_another_seed_is_another_order(order):
    assert order.rows_of(0) != TaskOrder(ROWS, SIZES, 4, lambda: 0).rows_of(0)


def test_a_tasks_order_does_not_depend_on_the_others():
    alone, beside = (
        TaskOrder({"a": 9}, {"a": 4}, 1, lambda: 0),
        TaskOrder({"a": 9, "b": 2}, {"a": 4, "b": 1}, 1, lambda: 0),
    )
    assert alone.rows_of(3) == [row for row in beside.rows_of(3) if row < 9]


def test_the_parts_of_a_step_have_nearly_their_share_of_every_task(order):
    rows = order.rows_of(0)
    for half in (rows[:4], rows[4:]):
        assert [sum(first <= row < last for row in half) for first, last in ((0, 5), (5, 8), (8, 24))] == [1, 1, 2]
