"""Reward only: CRPG without the constraints, the baseline that shows what the judges are for."""

from dataclasses import replace

from torch import Tensor

from trainer.batch import Plan, ScoredRollout
from trainer.loss import LossSettings, Total, weighted_likelihood
from trainer.losses import crpg

NEEDS_BASELINES = True
TRAINS_ON_BASELINES = False
NEEDS_ALL_LOGPROBS = True
MIN_K = 1


def plan(scored: ScoredRollout, settings: LossSettings, total: Total = lambda x: x) -> Plan:
    """Return CRPG's advantages as if every known sample were satisfied.

    R~ = max(1 - log(pi_w(a|s)/pi_ref(a|s)) / KL_max, 0) * R_calib,  A_i = R~_i - mean_j R~_j

    Source: eq 5, 11 and 12 of arXiv 2409.20370 without eq 8, its ablation of the judges. Samples that the judges leave
    unknown take no part here either (ours): methods are compared on the same samples.

    Args:
        scored: scores of completions and baselines, any scale; log-ratios, nats per completion.
        settings: those of crpg.
        total: sums over processes.
    """
    return crpg.plan(replace(scored, satisfied_BK=scored.known_BK), settings, total)


def loss(
    logprobs_BK: Tensor, baseline_logprobs_B: Tensor, scored: ScoredRollout, plan: Plan, settings: LossSettings
) -> Tensor:
    """Return the policy-gradient loss of these rows.

    -(1/n) sum_i log pi_w(a_i|s_i) * stopgrad(A_i)

    Source: eq 12.

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
