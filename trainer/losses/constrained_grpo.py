"""Constrained GRPO (arXiv 2602.05863): a multiplier per judge, raised while the judge is violated too often."""

import torch
from torch import Tensor

from trainer.batch import Plan, ScoredRollout
from trainer.loss import LossSettings, Total, plan_of_weights, weighted_likelihood
from trainer.standardize import standardize_in_prompts

NEEDS_BASELINES = False
TRAINS_ON_BASELINES = False
NEEDS_ALL_LOGPROBS = True
MIN_K = 2


def multipliers(scored: ScoredRollout, settings: LossSettings) -> Tensor:
    """Return lambda_j of each judge at this step, shape J; a judge without one yet has `multiplier_start`."""
    values = [settings.multipliers.get(judge, settings.multiplier_start) for judge in scored.judges]
    return torch.tensor(values, dtype=scored.scores_BK.dtype, device=scored.scores_BK.device)


def next_multipliers(scored: ScoredRollout, settings: LossSettings, total: Total = lambda x: x) -> dict[str, float]:
    """Return lambda_j of each judge at the next step, by its name.

    lambda_j <- min( max( lambda_j + multiplier_rate * (violated_j / known_j - violation_target), 0 ), multiplier_max )

    Source: arXiv 2602.05863, a Lagrangian relaxation of violation rates. The step and the upper bound, for constraints
    that cannot be met, are ours. The rate is over all known verdicts of the step, all processes; without any the
    multiplier stays.

    Args:
        scored: verdicts by judge.
        settings: `violation_target`, a rate; `multiplier_rate`, per step; `multiplier_max`; the multipliers now.
        total: sums over processes.
    """
    if not scored.judges:
        return {}
    known_BKJ = scored.judge_known_BKJ
    violated_J, known_J = (each.sum(dim=(0, 1)) for each in (known_BKJ & ~scored.judge_satisfied_BKJ, known_BKJ))
    counts_2J = total(torch.stack([violated_J, known_J]).to(scored.scores_BK.dtype)).tolist()
    moved = dict(settings.multipliers)
    for judge, violated, known in zip(scored.judges, *counts_2J, strict=True):
        now = moved.get(judge, settings.multiplier_start)
        excess = violated / known - settings.violation_target if known else 0.0
        moved[judge] = min(max(now + settings.multiplier_rate * excess, 0.0), settings.multiplier_max)
    return moved


def plan(scored: ScoredRollout, settings: LossSettings, total: Total = lambda x: x) -> Plan:
    """Return the advantages as weights, counted over all known samples.

    A = Z(r) - sum_j lambda_j Z(1{J_j violated})

    Source: the scalarised advantages of arXiv 2602.05863: each component standardised in its group (the prompt) before
    they are added. The reward's weight of 1 is ours. A judge that does not apply to a sample, or gave no answer, adds
    nothing: that is the mean of its group, neither a 0 nor a 1.

    Args:
        scored: scores, any scale; verdicts by judge.
        settings: the multipliers.
        total: sums over processes.
    """
    scores_BK, known_BKJ = scored.scores_BK, scored.judge_known_BKJ
    violated_BKJ = (known_BKJ & ~scored.judge_satisfied_BKJ).to(scores_BK.dtype)
    multipliers_J = multipliers(scored, settings)
    return plan_of_weights(
        standardize_in_prompts(scores_BK, scored.known_BK)
        - (multipliers_J * standardize_in_prompts(violated_BKJ, known_BKJ)).sum(dim=2),
        scores_BK - (multipliers_J * violated_BKJ).sum(dim=2),
        scored.known_BK,
        count=total(scored.known_BK.sum().to(scores_BK.dtype)),
    )


def loss(
    logprobs_BK: Tensor, baseline_logprobs_B: Tensor, scored: ScoredRollout, plan: Plan, settings: LossSettings
) -> Tensor:
    """Return the policy-gradient loss of these rows.

    -(1/n) sum_i log pi_w(a_i|s_i) * stopgrad(A_i)

    Ours: one strictly on-policy step on whole responses, as for CRPG, so the importance ratio of GRPO is 1 and never
    clipped; no KL term.

    Args:
        logprobs_BK: log pi_w, nats per completion, with gradient.
        baseline_logprobs_B: not read.
        scored: not read.
        plan: advantages and n.
        settings: not read.

    Returns:
        A scalar.
    """
    return weighted_likelihood(logprobs_BK, plan)
