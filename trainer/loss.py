"""What a loss is: a pure function from a scored rollout to a `Plan`, and one from a plan to the loss.

The plan is made once per optimizer step, over all its prompts, and holds constants. The loss is then computed per
micro-batch with a gradient, as a sum divided by the plan's `count`, so that micro-batches and processes add up to the
loss of the whole batch. One file in `losses/` per `rlhf_optimizer`: a file there is a name to choose, and nothing else
needs to know of it.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Protocol

import torch
from torch import Tensor

import trainer.losses
from trainer.batch import Plan, ScoredRollout, Total

__all__ = ["LOSSES", "Loss", "LossSettings", "Total", "adapt", "load_loss", "plan_of_weights", "weighted_likelihood"]

LOSSES = tuple(sorted(module.name for module in pkgutil.iter_modules(trainer.losses.__path__)))


@dataclass(frozen=True)
class LossSettings:
    """The settings of `CGPOConfig` that losses read; meaning and units are told there.

    `multipliers` are not set by a user: they are what `adapt` made of the steps before, by the name of the judge.
    """

    kl_threshold: float = 5.0
    clamp_kl_factor: bool = False
    advantage_baseline: str = "batch"
    beta: float = 0.1
    lamb: float = 1.0
    verdict_weight: float = 1.0
    softmin_sharpness: float = 1.0
    violation_target: float = 0.05
    multiplier_start: float = 1.0
    multiplier_rate: float = 0.1
    multiplier_max: float = 10.0
    multipliers: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, config: object) -> "LossSettings":
        """Return the settings that a configuration has under these names."""
        return cls(**{f.name: getattr(config, f.name) for f in fields(cls) if f.name != "multipliers"})


class Loss(Protocol):
    """The functions of a file in `losses/`, and what it needs.

    A loss that adapts itself from step to step has one more, `next_multipliers(scored, settings, total)`: from
    `settings.multipliers` to those of the next step, by the name of the judge. See `adapt`.
    """

    NEEDS_BASELINES: bool
    """Whether it reads the baselines' scores."""
    TRAINS_ON_BASELINES: bool
    """Whether it trains on the baselines too."""
    NEEDS_ALL_LOGPROBS: bool
    """Whether its plan reads the log-probabilities of all completions. A loss that can do without plans with NaN for
    what is not computed; what the plan uses is, and it is made anew, until nothing is missing."""
    MIN_K: int
    """Fewest completions per prompt with which it can learn anything."""

    def plan(self, scored: ScoredRollout, settings: LossSettings, total: Total) -> Plan:
        """Return which samples are trained on and how strongly."""

    def loss(
        self,
        logprobs_BK: Tensor,
        baseline_logprobs_B: Tensor,
        scored: ScoredRollout,
        plan: Plan,
        settings: LossSettings,
    ) -> Tensor:
        """Return the loss of these rows, a scalar, already divided by `plan.count`."""


def load_loss(name: str) -> Loss:
    """Return the loss called `name`: a file of `losses/`, or a module given as `package.module:` for one's own.

    Raises:
        ValueError: there is no such loss.
    """
    if name in LOSSES:
        return importlib.import_module(f"trainer.losses.{name}")  # type: ignore[return-value]
    module, colon, attribute = name.partition(":")
    if not colon:
        raise ValueError(f"no loss named {name!r}; there are: {', '.join(LOSSES)}")
    found = importlib.import_module(module)
    return getattr(found, attribute) if attribute else found  # type: ignore[return-value]


def adapt(loss: Loss, scored: ScoredRollout, settings: LossSettings, total: Total) -> LossSettings:
    """Return the settings of the next step: these, but where the loss adapts multipliers, those have moved.

    The only state of a loss. It is a value that the trainer holds between steps and puts into checkpoints, so the
    functions of `losses/` stay pure; made of totals over all processes, it is the same on each.
    """
    next_multipliers = getattr(loss, "next_multipliers", None)
    if next_multipliers is None:
        return settings
    return replace(settings, multipliers=next_multipliers(scored, settings, total))


def plan_of_weights(
    weights_BK: Tensor, rewards_BK: Tensor, known_BK: Tensor, count: Tensor, baseline_weights_B: Tensor | None = None
) -> Plan:
    """Return the plan of a loss that weights each completion's log-likelihood and compares no pairs."""
    none_B = torch.full_like(weights_BK[:, 0], -1, dtype=torch.long)
    return Plan(
        weights_BK=weights_BK,
        baseline_weights_B=torch.zeros_like(weights_BK[:, 0]) if baseline_weights_B is None else baseline_weights_B,
        chosen_B=none_B,
        rejected_B=none_B,
        rewards_BK=rewards_BK.masked_fill(~known_BK, torch.nan),
        count=count,
    )


def weighted_likelihood(logprobs_BK: Tensor, plan: Plan) -> Tensor:
    """Return -(1/n) sum_i weight_i * log pi_w(a_i|s_i) of these rows, a scalar."""
    return -(plan.weights_BK * logprobs_BK).sum() / plan.count.clamp(min=1)
