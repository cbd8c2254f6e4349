"""Standardised values: how far each lies from the mean of its prompt, or of the batch, in standard deviations."""

import torch
from torch import Tensor

from trainer.batch import Total

__all__ = ["EPSILON", "standardize_in_batch", "standardize_in_prompts"]

EPSILON = 1e-4
"""Added to a standard deviation: values that differ in their last digits alone stay near 0."""


def standardize_in_prompts(values_BK: Tensor, known_BK: Tensor) -> Tensor:
    """Return (value - mean) / (deviation + EPSILON), both over the known values of the prompt.

    Exactly 0 where a value is unknown, where it is alone in its prompt, and where all of them are equal: there is
    nothing to compare. The deviation is that of the values at hand (divided by n, not by n - 1).

    Source: GRPO (arXiv 2402.03300), whose group is the completions of one prompt.

    Args:
        values_BK: any scale; shape BK, or BKJ with further columns, each standardised by itself.
        known_BK: booleans of the same shape.

    >>> standardize_in_prompts(torch.tensor([[3.0, 1.0, 9.0]]), torch.tensor([[True, True, False]])).round(decimals=3)
    tensor([[ 1., -1.,  0.]])
    """
    count = known_BK.sum(dim=1, keepdim=True).clamp(min=1)
    kept_BK = torch.where(known_BK, values_BK, 0.0)
    deviations_BK = torch.where(known_BK, kept_BK - kept_BK.sum(dim=1, keepdim=True) / count, 0.0)
    deviation = (deviations_BK.square().sum(dim=1, keepdim=True) / count).sqrt()
    lowest = values_BK.masked_fill(~known_BK, torch.inf).amin(dim=1, keepdim=True)
    highest = values_BK.masked_fill(~known_BK, -torch.inf).amax(dim=1, keepdim=True)
    return torch.where(lowest < highest, deviations_BK / (deviation + EPSILON), 0.0)


def standardize_in_batch(values_BK: Tensor, known_BK: Tensor, total: Total) -> Tensor:
    """Return the same over all known values of the step, all prompts and processes; 0 where unknown.

    Args:
        values_BK: any scale.
        known_BK: booleans.
        total: sums over processes.
    """
    count = total(known_BK.sum().to(values_BK.dtype)).clamp(min=1)
    kept_BK = torch.where(known_BK, values_BK, 0.0)
    deviations_BK = torch.where(known_BK, kept_BK - total(kept_BK.sum()) / count, 0.0)
    deviation = (total(deviations_BK.square().sum()) / count).sqrt()
    return deviations_BK / (deviation + EPSILON)
