"""CRRAFT: Calibrated-Regularized Reward-Ranking Finetuning (section 4.2.3)."""

import torch
from torch import Tensor

from trainer.batch import Plan, ScoredRollout
from trainer.calibration import calibrate, constrain
from trainer.constraints import within_kl
from trainer.loss import LossSettings, Total, plan_of_weights, weighted_likelihood

NEEDS_BASELINES = True
TRAINS_ON_BASELINES = True
NEEDS_ALL_LOGPROBS = False
MIN_K = 1


def choose(scores_BK: Tensor, allowed_BK: Tensor) -> Tensor:
    """Return, per prompt, the column of the best allowed completion; -1 where none is allowed.

    a* = argmax of r over { a : (s, a) in Sigma, log(pi_w/pi_ref) <= KL_max }

    Source: eq 17. The filter comes first, the argmax after it.

    >>> choose(torch.tensor([[3.0, 1.0, 5.0]]), torch.tensor([[False, True, False]]))
    tensor([1])
    """
    best_B = scores_BK.masked_fill(~allowed_BK, -torch.inf).argmax(dim=1)
    return torch.where(allowed_BK.any(dim=1), best_B, torch.full_like(best_B, -1))


def plan(scored: ScoredRollout, settings: LossSettings, total: Total = lambda x: x) -> Plan:
    """Return each prompt's best allowed completion, weighted by its calibrated reward.

    Where none is allowed, the baseline takes its place if it is satisfied and within the KL threshold; its weight is
    eq 5 at a_bar, 0.5. Else the prompt is skipped. A prompt whose baseline has no score is skipped too.
    """
    known_BK = scored.known_BK & scored.baseline_known_B[:, None]
    allowed_BK = scored.satisfied_BK & known_BK & within_kl(scored.logratios_BK, settings.kl_threshold)
    best_B = choose(scored.scores_BK, allowed_BK)
    rewards_BK = calibrate(scored.scores_BK, scored.baseline_scores_B)
    columns = torch.arange(allowed_BK.shape[1], device=best_B.device)
    weights_BK = constrain(rewards_BK, columns == best_B[:, None])
    fallback_B = (
        (best_B < 0)
        # with every sample unknown nothing was ruled out, so there is nothing for the baseline to replace
        & scored.known_BK.any(dim=1)
        & scored.baseline_known_B
        & scored.baseline_satisfied_B
        & within_kl(scored.baseline_logratios_B, settings.kl_threshold)
    )
    return plan_of_weights(
        weights_BK,
        constrain(rewards_BK, allowed_BK),
        known_BK,
        count=total(((best_B >= 0) | fallback_B).sum().to(weights_BK.dtype)),
        baseline_weights_B=torch.where(fallback_B, 0.5, 0.0).to(weights_BK.dtype),
    )


def loss(
    logprobs_BK: Tensor, baseline_logprobs_B: Tensor, scored: ScoredRollout, plan: Plan, settings: LossSettings
) -> Tensor:
    """Return the weighted log-likelihood loss of these rows.

    -(1/n) sum_i R_calib(a*_i) * log pi_w(a*_i|s_i)

    Source: eq 18.

    Args:
        logprobs_BK: log pi_w, nats per completion, with gradient.
        baseline_logprobs_B: log pi_w of the baselines, with gradient.
        scored: not read.
        plan: weights and n.
        settings: not read.

    Returns:
        A scalar.
    """
    baselines = (plan.baseline_weights_B * baseline_logprobs_B).sum() / plan.count.clamp(min=1)
    return weighted_likelihood(logprobs_BK, plan) - baselines
