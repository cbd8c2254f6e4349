"""RVPO: Reward-Variance Policy Optimization (arXiv 2605.05750)."""

import torch
from torch import Tensor

from trainer.batch import Plan, ScoredRollout
from trainer.loss import LossSettings, Total, plan_of_weights, weighted_likelihood
from trainer.standardize import standardize_in_batch, standardize_in_prompts

NEEDS_BASELINES = False
TRAINS_ON_BASELINES = False
NEEDS_ALL_LOGPROBS = True
MIN_K = 2


def soft_min(values_BKR: Tensor, known_BKR: Tensor, sharpness: float) -> Tensor:
    """Return the soft minimum of the known values of each sample, shape BK; 0 where none is known.

    -(1/sharpness) log mean_r exp(-sharpness * x_r)

    The mean for sharpness -> 0, the smallest for sharpness -> infinity (a logical AND).

    Source: the LogSumExp (SoftMin) operator of arXiv 2605.05750.

    >>> values, known = torch.tensor([[[0.0, 2.0, -9.0]]]), torch.tensor([[[True, True, False]]])
    >>> [round(float(soft_min(values, known, sharpness)), 2) for sharpness in (1e-3, 1.0, 1e3)]
    [1.0, 0.57, 0.0]
    """
    exponents_BKR = (-sharpness * values_BKR).masked_fill(~known_BKR, -torch.inf)
    num_known_BK = known_BKR.sum(dim=2)
    means_BK = torch.logsumexp(exponents_BKR, dim=2) - num_known_BK.clamp(min=1).log()
    return torch.where(num_known_BK > 0, -means_BK / sharpness, 0.0)


def aggregated(scored: ScoredRollout, settings: LossSettings) -> Tensor:
    """Return the soft minimum of each sample's standardised score and verdicts, shape BK; 0 where unknown.

    softmin( Z_prompt(r), Z_prompt(1{J_1 satisfied}), ..., Z_prompt(1{J_M satisfied}) )

    Judges that do not apply to a sample, or gave no answer, are left out of its minimum.
    """
    scores_BK = standardize_in_prompts(scored.scores_BK, scored.known_BK)
    verdicts_BKJ = standardize_in_prompts(scored.judge_satisfied_BKJ.to(scores_BK.dtype), scored.judge_known_BKJ)
    values_BKR = torch.cat([scores_BK[:, :, None], verdicts_BKJ], dim=2)
    known_BKR = torch.cat([scored.known_BK[:, :, None], scored.judge_known_BKJ], dim=2)
    return soft_min(values_BKR, known_BKR, settings.softmin_sharpness)


def plan(scored: ScoredRollout, settings: LossSettings, total: Total = lambda x: x) -> Plan:
    """Return the advantages as weights, counted over all known samples.

    A = Z_batch( softmin_r Z_prompt(x_r) )

    Source: arXiv 2605.05750 for the soft minimum in the place of the sum. Standardised over the batch as in GDPO
    (ours): a soft minimum alone is never above the mean.

    Args:
        scored: scores, any scale; verdicts by judge.
        settings: `softmin_sharpness`, per standard deviation.
        total: sums over processes.
    """
    rewards_BK = aggregated(scored, settings)
    return plan_of_weights(
        standardize_in_batch(rewards_BK, scored.known_BK, total),
        rewards_BK,
        scored.known_BK,
        count=total(scored.known_BK.sum().to(rewards_BK.dtype)),
    )


def loss(
    logprobs_BK: Tensor, baseline_logprobs_B: Tensor, scored: ScoredRollout, plan: Plan, settings: LossSettings
) -> Tensor:
    """Return the policy-gradient loss of these rows.

    -(1/n) sum_i log pi_w(a_i|s_i) * stopgrad(A_i)

    Ours: one strictly on-policy step on whole responses, as for CRPG; no clipping and no KL term.

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
