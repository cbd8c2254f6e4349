"""The update of one micro-batch as parts that fit a token budget, each a forward and backward pass of its own.

The step is strictly on-policy: the weights that generated are those that are updated. So log pi_w is known before the
update, and with it the derivative of the loss by each log-probability. The gradient of the loss is then that of
sum_n factor_n * log pi_w(a_n|s_n) with constant factors, which can be taken part by part and in any order.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from trainer.batch import Sequences
from trainer.experience import Experience
from trainer.likelihoods import Kept
from trainer.logprobs import in_parts, weighted_sum
from trainer.loss import Loss, LossSettings

__all__ = ["Part", "linearize", "split"]


@dataclass(frozen=True)
class Part:
    """One forward and backward pass: rows of sequences, the factor of each sequence, and its share of the loss.

    `rows` is empty where there is nothing to learn. `kept_N` are their log-probabilities where the
    forward pass is done already, with its graph.
    """

    sequences: Sequences
    rows: list[list[int]]
    factor_N: Tensor
    value: Tensor
    kept_N: Tensor | None = None

    def loss(self, model: nn.Module) -> Tensor:
        """Return a scalar with the value of the loss's share and the gradient of the loss."""
        if not self.rows:
            # No gradient at all, not a gradient of zero, which would still move parameters by momentum and decay.
            return self.value.detach().clone().requires_grad_()
        if self.kept_N is not None:
            total = (self.factor_N * self.kept_N).sum()
        else:
            total = weighted_sum(model, self.sequences, self.rows, self.factor_N)
        return total - total.detach() + self.value


def linearize(
    experience: Experience, loss: Loss, settings: LossSettings, start: int, stop: int
) -> tuple[Tensor, Tensor]:
    """Return the loss of prompts `start` to `stop - 1`, and its derivative by each sequence's log-probability.

    factor_n = d loss / d log pi_w(a_n|s_n), at the log-probabilities of the policy that generated.

    Exactly 0 for a completion that the plan does not use.

    Returns:
        A scalar, and factors per nat, shape N.
    """
    plan, scored = experience.plan.rows(start, stop), experience.scored.rows(start, stop)
    # What the plan does not use may not be known, and 0 times NaN is NaN.
    logprobs_BK = torch.where(plan.used_BK, scored.logprobs_BK, 0.0).requires_grad_()
    logprobs_B = torch.where(plan.baseline_weights_B != 0, scored.baseline_logprobs_B, 0.0).requires_grad_()
    with torch.enable_grad():
        value = loss.loss(logprobs_BK, logprobs_B, scored, plan, settings)
        by_BK, by_B = torch.autograd.grad(value, (logprobs_BK, logprobs_B), allow_unused=True)
    num_prompts, k = experience.scored.scores_BK.shape
    factor_N = logprobs_BK.new_zeros(len(experience.rollout.sequences))
    if by_BK is not None:
        factor_N[start * k : stop * k] = torch.where(plan.used_BK, by_BK, 0.0).flatten()
    if by_B is not None and experience.rollout.baselines:
        chosen_B = torch.where(plan.baseline_weights_B != 0, by_B, 0.0)
        factor_N[num_prompts * k + start : num_prompts * k + stop] = chosen_B
    return value.detach(), factor_N


def split(
    model: nn.Module,
    sequences: Sequences,
    value: Tensor,
    factor_N: Tensor,
    most_tokens: int,
    agree: Callable[[int], int] = lambda number: number,
    kept: Kept | None = None,
) -> list[Part]:
    """Return the parts of an update, as many on every process; the whole value of the loss is the last part's.

    Args:
        model: the policy, wrapped.
        sequences: what the factors belong to; those with a factor of 0 are in no part.
        value: of the loss.
        factor_N: its derivative by each log-probability.
        most_tokens: of one part, padding included.
        agree: from the number of parts of this process to the largest of all: processes go forward together, with a
            factor of 0 where there is nothing to learn.
        kept: sequences whose graph is there already; they come first, so that it is freed. Only in a single process.
    """
    members = factor_N.nonzero().flatten().tolist()
    first: list[Part] = []
    nothing = torch.zeros_like(value)
    if kept is not None and not {n for row in kept.rows for n in row}.isdisjoint(members):
        first.append(Part(sequences, kept.rows, factor_N, nothing, kept.logprobs_N))
        members = [n for n in members if not any(n in row for row in kept.rows)]
    parts = in_parts(model, sequences, most_tokens, members) if members else []
    parts = [[[0]]] * (agree(len(parts)) - len(parts)) + parts
    found = [*first, *(Part(sequences, part, factor_N, nothing) for part in parts)] or [
        Part(sequences, [], factor_N, nothing)
    ]
    return [*found[:-1], replace(found[-1], value=value)]
