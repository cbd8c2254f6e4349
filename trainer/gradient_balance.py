"""The tasks' gradients brought to one norm before they are added: losses of different kinds have no common scale."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

__all__ = ["balanced"]


def balanced(
    model: nn.Module, weights: Mapping[str, float], descend: Callable[[str], Tensor], norm: Callable[[], float]
) -> Tensor:
    """Leave the sum of the tasks' gradients, each scaled to the mean of their norms, in the model; return the loss.

    g = sum_l rho_l * m / |g_l| * g_l,   m = mean_l |g_l|

    So what a task says about the direction counts by its weight alone, and the length of the step stays about the same.
    Costs one more copy of the gradients. A task whose gradient is 0 adds nothing and counts in no mean.

    Source: ours, after GradNorm (arXiv 1711.02257), which learns such factors; here they are taken anew in each step.

    Args:
        model: the policy, wrapped.
        weights: rho of each task that is trained on, by its name.
        descend: makes all backward passes of a task at weight 1, and returns its loss.
        norm: of the gradients that are there, over all parameters and processes.

    Returns:
        sum_l rho_l * loss_l, a scalar.
    """
    directions: dict[nn.Parameter, Tensor] = {}
    norms, losses = [], []
    for task, weight in weights.items():
        model.zero_grad()
        losses.append(weight * descend(task))
        length = norm()
        if length == 0:
            continue
        norms.append(length)
        for parameter in model.parameters():
            if parameter.grad is not None:
                share = parameter.grad * (weight / length)
                directions[parameter] = directions[parameter] + share if parameter in directions else share
    model.zero_grad()
    mean = sum(norms) / max(len(norms), 1)
    for parameter, direction in directions.items():
        parameter.grad = direction * mean
    return torch.stack(losses).sum()
