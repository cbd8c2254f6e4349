"""CRPG: Calibrated-Regularized Policy Gradient (section 4.2.1)."""

import torch
from torch import Tensor

from trainer.batch import Plan, ScoredRollout
from trainer.calibration import calibrate, constrain, regularize
from trainer.loss import LossSettings, Total, plan_of_weights, weighted_likelihood

NEEDS_BASELINES = True
TRAINS_ON_BASELINES = False
NEEDS_ALL_LOGPROBS = True
MIN_K = 1


def advantages(rewards_BK: Tensor, known_BK: Tensor, settings: LossSettings, total: Total = lambda x: x) -> Tensor:
    """Return each known sample's reward minus the mean; 0 where unknown.

    A_i = R~_i - mean_j R~_j

    Source: eq 12. The mean is over all known samples of the batch, all processes included. Ours: `prompt` takes the
    mean per prompt, `leave_one_out` the mean of the prompt's other samples.

    >>> rewards, known = torch.tensor([[1.0, 1.0, 0.0, 0.0]]), torch.tensor([[True, False, True, True]])
    >>> [round(a, 3) for a in advantages(rewards, known, LossSettings()).flatten().tolist()]
    [0.667, 0.0, -0.333, -0.333]
    """
    rewards_BK = torch.where(known_BK, rewards_BK, torch.zeros_like(rewards_BK))
    if settings.advantage_baseline == "batch":
        mean = total(rewards_BK.sum()) / total(known_BK.sum().to(rewards_BK.dtype)).clamp(min=1)
    else:
        sums, counts = rewards_BK.sum(dim=1, keepdim=True), known_BK.sum(dim=1, keepdim=True)
        own = settings.advantage_baseline == "prompt"
        mean = sums / counts.clamp(min=1) if own else (sums - rewards_BK) / (counts - 1).clamp(min=1)
        mean = torch.where(counts > 1, mean, rewards_BK)  # alone in its prompt: nothing to compare with
    return torch.where(known_BK, rewards_BK - mean, torch.zeros_like(rewards_BK))


def plan(scored: ScoredRollout, settings: LossSettings, total: Total = lambda x: x) -> Plan:
    """Return the advantages as weights, counted over all known samples.

    Source: eq 5, 8, 11, 12. A prompt whose baseline has no score cannot be calibrated: its samples are unknown.
    """
    known_BK = scored.known_BK & scored.baseline_known_B[:, None]
    calibrated_BK = calibrate(scored.scores_BK, scored.baseline_scores_B)
    constrained_BK = constrain(calibrated_BK, scored.satisfied_BK & known_BK)
    rewards_BK = regularize(constrained_BK, scored.logratios_BK, settings.kl_threshold, settings.clamp_kl_factor)
    rewards_BK = torch.where(known_BK, rewards_BK, torch.zeros_like(rewards_BK))
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
