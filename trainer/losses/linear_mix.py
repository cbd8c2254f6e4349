"""Linear mix: reward and verdicts added up, the baseline in which a good score can buy a violation."""

import torch
from torch import Tensor

from trainer.batch import Plan, ScoredRollout
from trainer.calibration import calibrate, regularize
from trainer.loss import LossSettings, Total, plan_of_weights, weighted_likelihood
from trainer.losses.crpg import advantages

NEEDS_BASELINES = True
TRAINS_ON_BASELINES = False
NEEDS_ALL_LOGPROBS = True
MIN_K = 1


def satisfied_share(satisfied_BKJ: Tensor, known_BKJ: Tensor) -> Tensor:
    """Return which part of the judges that answered is satisfied, shape BK; 1 where none applies.

    >>> satisfied_share(torch.tensor([[[True, False, False]]]), torch.tensor([[[True, True, False]]]))
    tensor([[0.5000]])
    """
    num_known_BK = known_BKJ.sum(dim=2)
    share_BK = (satisfied_BKJ & known_BKJ).sum(dim=2) / num_known_BK.clamp(min=1)
    return torch.where(num_known_BK > 0, share_BK, 1.0)


def plan(scored: ScoredRollout, settings: LossSettings, total: Total = lambda x: x) -> Plan:
    """Return the advantages of the mixed rewards as weights, counted over all known samples.

    R_mix = R_calib + verdict_weight * mean_j 1{J_j satisfied}
    R~ = max(1 - log(pi_w(a|s)/pi_ref(a|s)) / KL_max, 0) * R_mix,  A_i = R~_i - mean_j R~_j

    Source: the practice that arXiv 2409.20370 argues against; ours in its details. All but R_mix is as in CRPG (eq 5,
    11, 12), so the two differ in one thing. The mean is over the judges that apply and answered.

    Args:
        scored: scores of completions and baselines, any scale; verdicts by judge; log-ratios, nats per completion.
        settings: `verdict_weight`, where the calibrated reward lies between 0 and 1; those of crpg.
        total: sums over processes.
    """
    known_BK = scored.known_BK & scored.baseline_known_B[:, None]
    calibrated_BK = calibrate(scored.scores_BK, scored.baseline_scores_B)
    share_BK = satisfied_share(scored.judge_satisfied_BKJ, scored.judge_known_BKJ).to(calibrated_BK.dtype)
    mixed_BK = calibrated_BK + settings.verdict_weight * share_BK
    rewards_BK = regularize(mixed_BK, scored.logratios_BK, settings.kl_threshold, settings.clamp_kl_factor)
    weights_BK = advantages(rewards_BK, known_BK, settings, total)
    return plan_of_weights(weights_BK, rewards_BK, known_BK, total(known_BK.sum().to(rewards_BK.dtype)))


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
