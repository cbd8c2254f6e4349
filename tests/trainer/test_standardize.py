"""Standardised values by hand, and where there is nothing to compare."""

import pytest
import torch

from trainer.standardize import standardize_in_batch, standardize_in_prompts

# The 1e-4 that is added to a deviation changes the numbers below by less than this.
CLOSE = 5e-4


@pytest.mark.parametrize(
    ("values", "known", "answer"),
    [
        ([3.0, 1], [True, True], [1, -1]),  # mean 2, deviation 1
        ([2.0, 4, 6], [True] * 3, [-1.2247, 0, 1.2247]),  # mean 4, deviation sqrt(8 / 3) = 1.6330
        ([2.0, 9, 4], [True, False, True], [-1, 0, 1]),  # the unknown 9 is in neither mean nor deviation
        ([0.0, 0, 0, 1], [True] * 4, [-0.5774, -0.5774, -0.5774, 1.7321]),  # mean 1/4, deviation sqrt(3) / 4
    ],
)
def test_a_value_lies_so_many_deviations_from_the_mean_of_its_prompt(values, known, answer):
    found = standardize_in_prompts(torch.tensor([values]), torch.tensor([known]))
    assert found[0].tolist() == pytest.approx(answer, abs=CLOSE)


@pytest.mark.parametrize(
    ("values", "known"),
    [
        ([7.0], [True]),
        ([7.0, 1], [True, False]),
        ([0.1, 0.1, 0.1], [True] * 3),  # their mean is not 0.1 in float32
        ([1.0, 2], [False, False]),
        ([5.0, 5, 9], [True, True, False]),
    ],
)
def test_where_nothing_can_be_compared_all_are_exactly_0(values, known):
    assert standardize_in_prompts(torch.tensor([values]), torch.tensor([known])).tolist() == [[0] * len(values)]


def test_values_that_differ_in_their_last_digits_stay_near_0():
    found = standardize_in_prompts(torch.tensor([[1.0, 1.0000001]]), torch.ones(1, 2).bool())
    assert float(found.abs().max()) < 0.01


def test_each_further_column_is_standardised_by_itself():
    # First judge: 1, 0 known. Second: known of one sample only. Third: equal.
    values = torch.tensor([[[1.0, 1, 1], [0, 0, 1]]])
    known = torch.tensor([[[True, True, True], [True, False, True]]])
    found = standardize_in_prompts(values, known)
    assert found.flatten().tolist() == pytest.approx([1, 0, 0, -1, 0, 0], abs=CLOSE)


def test_a_process_without_any_prompt_has_no_value():
    assert standardize_in_prompts(torch.zeros(0, 4), torch.zeros(0, 4).bool()).shape == (0, 4)


def test_the_batch_is_that_of_all_processes():
    # Here 1 and 3, elsewhere 5 and 7: count 4, mean 4, squares 9 + 1 here and 1 + 9 there, deviation sqrt(5) = 2.2361.
    elsewhere = iter([2.0, 12.0, 10.0])  # count, sum, squares
    found = standardize_in_batch(torch.tensor([[1.0, 3.0, 99]]), torch.tensor([[True, True, False]]),
                                 lambda here: here + next(elsewhere))  # fmt: skip
    assert found[0].tolist() == pytest.approx([-1.3416, -0.4472, 0], abs=CLOSE)
