"""GDPO: Group reward-Decoupled normalization Policy Optimization (arXiv 2601.05242)."""

from torch import Tensor

from trainer.batch import Plan, ScoredRollout
from trainer.loss import LossSettings, Total, plan_of_weights, weighted_likelihood
from trainer.standardize import standardize_in_batch, standardize_in_prompts

NEEDS_BASELINES = False
TRAINS_ON_BASELINES = False
NEEDS_ALL_LOGPROBS = True
MIN_K = 2


def advantages(scored: ScoredRollout, settings: LossSettings, total: Total) -> Tensor:
    """Return each known sample's advantage, shape BK; 0 where unknown.

    A = Z_batch( Z_prompt(r) + verdict_weight * sum_j Z_prompt(1{J_j satisfied}) )

    Source: arXiv 2601.05242: each reward standardised in its group, the weighted sum standardised over the batch. A
    judge that does not apply to a sample, or gave no answer, adds nothing: that is the mean of its group, neither a 0
    nor a 1. The weight 1 of the score and one weight for all verdicts are ours.
    """
    scores_BK = standardize_in_prompts(scored.scores_BK, scored.known_BK)
    verdicts_BKJ = standardize_in_prompts(scored.judge_satisfied_BKJ.to(scores_BK.dtype), scored.judge_known_BKJ)
    summed_BK = scores_BK + settings.verdict_weight * verdicts_BKJ.sum(dim=2)
    return standardize_in_batch(summed_BK, scored.known_BK, total)


def plan(scored: ScoredRollout, settings: LossSettings, total: Total = lambda x: x) -> Plan:
    """Return the advantages as weights, counted over all known samples.

    Args:
        scored: scores, any scale; verdicts by judge.
        settings: `verdict_weight`, where the score has 1.
        total: sums over processes.
    """
    satisfied_BK = (scored.judge_satisfied_BKJ & scored.judge_known_BKJ).sum(dim=2)
    return plan_of_weights(
        advantages(scored, settings, total),
        scored.scores_BK + settings.verdict_weight * satisfied_BK,
        scored.known_BK,
        count=total(scored.known_BK.sum().to(scored.scores_BK.dtype)),
    )


def loss(
    logprobs_BK: Tensor, baseline_logprobs_B: Tensor, scored: ScoredRollout, plan: Plan, settings: LossSettings
) -> Tensor:
    """Return the policy-gradient loss of these rows.

    -(1/n) sum_i log pi_w(a_i|s_i) * stopgrad(A_i)

    Ours: one strictly on-policy step on whole responses, as for CRPG, so the paper's importance ratio is 1 and never
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
