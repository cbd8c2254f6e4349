"""RAFT: Reward rAnked FineTuning (arXiv 2304.06767): the best of K by score, constraints not asked."""

import torch
from torch import Tensor

from trainer.batch import Plan, ScoredRollout
from trainer.loss import LossSettings, Total, plan_of_weights, weighted_likelihood
from trainer.losses.crraft import choose

NEEDS_BASELINES = False
TRAINS_ON_BASELINES = False
NEEDS_ALL_LOGPROBS = False
MIN_K = 2


def plan(scored: ScoredRollout, settings: LossSettings, total: Total = lambda x: x) -> Plan:
    """Return weight 1 for each prompt's best known completion, 0 for all others.

    a* = argmax_k r(s, a_k)

    Source: arXiv 2304.06767, with every prompt's best taken each step. A prompt without any known sample is skipped.

    Args:
        scored: scores, any scale.
        settings: not read.
        total: sums over processes.
    """
    best_B = choose(scored.scores_BK, scored.known_BK)
    columns = torch.arange(scored.known_BK.shape[1], device=best_B.device)
    weights_BK = (columns == best_B[:, None]).to(scored.scores_BK.dtype)
    return plan_of_weights(
        weights_BK, scored.scores_BK, scored.known_BK, total((best_B >= 0).sum().to(weights_BK.dtype))
    )


def loss(
    logprobs_BK: Tensor, baseline_logprobs_B: Tensor, scored: ScoredRollout, plan: Plan, settings: LossSettings
) -> Tensor:
    """Return the negative log-likelihood of the best completions of these rows.

    -(1/n) sum_i log pi_w(a*_i|s_i)

    Source: arXiv 2304.06767. The whole response's likelihood, summed over tokens as everywhere here.

    Args:
        logprobs_BK: log pi_w, nats per completion, with gradient.
        baseline_logprobs_B: not read.
        scored: not read.
        plan: weights and n.
        settings: not read.

    Returns:
        A scalar.
    """
    return weighted_likelihood(logprobs_BK, plan)
