"""Rows that share a prompt, and batches of them within a budget."""

import torch

from trainer.packing import batches, filling, groups, pack
from trainer.rollout import pad_sequences

CPU = torch.device("cpu")


def sequences(*pairs: tuple[list[int], list[int]]):
    return pad_sequences([p for p, _ in pairs], [c for _, c in pairs], 0, CPU)


def test_a_shared_row_has_the_prompt_once_and_no_last_tokens():
    packed = pack(sequences(([5, 6, 7], [1, 2, 3]), ([5, 6, 7], [4, 9])), [[0, 1]])
    assert packed.input_ids_RL.tolist() == [[5, 6, 7, 1, 2, 4]]
    assert packed.position_ids_RL.tolist() == [[0, 1, 2, 3, 4, 3]]
    # Each first token is predicted by the prompt's end, each other by its predecessor.
    assert packed.source_M.tolist() == [2, 3, 4, 2, 5]
    assert packed.target_M.tolist() == [1, 2, 3, 4, 9]
    assert packed.sequence_M.tolist() == [0, 0, 0, 1, 1]
    wanted = [[1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0],
              [1, 1, 1, 0, 0, 1]]  # fmt: skip
    assert packed.mask_R1LL[0, 0].int().tolist() == wanted


def test_rows_of_one_completion_need_no_mask():
    packed = pack(sequences(([5], [1, 2]), ([6, 7], [])), [[0], [1]])
    assert packed.input_ids_RL.tolist() == [[5, 1], [6, 7]]
    assert packed.mask_R1LL is packed.position_ids_RL is None
    assert packed.source_M.tolist() == [0, 1]


def test_completions_share_a_prompt_where_that_costs_less():
    # Prompt of 40, four completions of 10 tokens: one row of 40 + 4 * 9 = 76 tokens, or four of 49.
    batch = sequences(*[([3] * 40, [n + 4] * 10) for n in range(4)], ([8] * 40, [1] * 10))
    assert groups(batch, range(5), 0.0, 4096) == [[0, 1, 2, 3], [4]]
    # One row: 76 + c * 5776; two: 116 + c * 6728; four: 196 + c * 9604.
    assert groups(batch, range(5), 0.001, 4096) == [[0, 1, 2, 3], [4]]
    assert groups(batch, range(5), None, 4096) == [[0], [1], [2], [3], [4]]
    # At most 60 tokens a row: two completions have 58.
    assert groups(batch, range(5), 0.0, 60) == [[0, 2], [1, 3], [4]]
    assert groups(batch, [1, 4], 0.0, 4096) == [[1], [4]]


def test_long_completions_behind_a_short_prompt_do_not_share_it():
    # Together 2 + 2 * 99 = 200 tokens, 200 + 0.01 * 40000 = 600; apart 2 * (101 + 0.01 * 10201) = 406.
    batch = sequences(([1, 2], [3] * 100), ([1, 2], [4] * 100))
    assert groups(batch, range(2), 0.01, 4096) == [[0], [1]]


def test_batches_hold_rows_of_similar_length_within_the_budget():
    batch = sequences(([1], [2] * 5), ([3], [2] * 2), ([4], [2] * 9), ([5], [2] * 3))
    rows = groups(batch, range(4), None, 4096)
    assert rows == [[2], [0], [3], [1]]  # 9, 5, 3, 2 tokens
    assert list(batches(batch, rows, 10)) == [[[2]], [[0], [3]], [[1]]]
    assert list(batches(batch, rows, 1)) == [[[2]], [[0]], [[3]], [[1]]]
    assert list(batches(batch, rows, 10**6)) == [rows]


def test_a_part_is_filled_up_where_that_is_worth_another_pass_over_the_prompt():
    # Two prompts of 2 tokens, three completions of 9 tokens that are read of each: rows of 29.
    batch = sequences(*[([prompt] * 2, [n] * 10) for prompt in (3, 4) for n in range(3)])
    rows = groups(batch, range(6), 0.0, 100)
    assert rows == [[0, 1, 2], [3, 4, 5]]
    assert filling(batch, rows, 58) == rows
    assert filling(batch, rows, 57) == [[0, 1, 2], [3, 4]]
    assert filling(batch, rows, 40) == [[0, 1, 2], [3]]
    assert filling(batch, rows, 39) == [[0, 1, 2]]
    assert filling(batch, rows, 1) == [[0, 1, 2]]
    assert filling(batch, [], 1) == []

    # Prompts of 6 tokens: three passes over one are worth 18.
    batch = sequences(*[([prompt] * 6, [n] * 10) for prompt in (3, 4) for n in range(3)])
    rows = groups(batch, range(6), 0.0, 100)
    assert filling(batch, rows, 65) == [[0, 1, 2]]


def test_what_is_too_long_for_the_room_is_passed_over():
    batch = sequences(([3], [1] * 10), ([4], [1] * 8), ([4], [1] * 7), ([4], [1] * 5), ([4], [1] * 4))
    rows = [[0], [1, 2, 3, 4]]
    assert filling(batch, rows, 10 + 1 + 6) == [[0], [2]]
    assert filling(batch, rows, 10 + 1 + 10) == [[0], [1, 4]]
