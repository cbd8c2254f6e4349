"""CODPO: Constrained Online Direct Preference Optimization (section 4.2.2)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.batch import Plan, ScoredRollout
from trainer.calibration import constrain
from trainer.loss import LossSettings, Total

NEEDS_BASELINES = False
TRAINS_ON_BASELINES = False
NEEDS_ALL_LOGPROBS = False
MIN_K = 2


def choose(scores_BK: Tensor, satisfied_BK: Tensor, known_BK: Tensor) -> tuple[Tensor, Tensor]:
    """Return, per prompt, the columns of the chosen and the rejected completion; -1 and -1 where there is no pair.

    a+ = argmax of r over X+,  a- = argmin of r over X-

    Source: section 4.2.2. With X+ empty the prompt is skipped; with X- empty a- is the worst of X+; a completion is
    never compared with itself. Selected with masks of infinities, so negative scores are safe.

    >>> scores, satisfied = torch.tensor([[-1.0, -2, -3, -4]]), torch.tensor([[False, True, True, False]])
    >>> choose(scores, satisfied, torch.ones_like(satisfied))
    (tensor([1]), tensor([3]))
    """
    positive_BK, negative_BK = satisfied_BK & known_BK, ~satisfied_BK & known_BK
    chosen_B = scores_BK.masked_fill(~positive_BK, -torch.inf).argmax(dim=1)
    candidates_BK = torch.where(negative_BK.any(dim=1, keepdim=True), negative_BK, positive_BK)
    rejected_B = scores_BK.masked_fill(~candidates_BK, torch.inf).argmin(dim=1)
    kept_B = positive_BK.any(dim=1) & (chosen_B != rejected_B)
    nothing_B = torch.full_like(chosen_B, -1)
    return torch.where(kept_B, chosen_B, nothing_B), torch.where(kept_B, rejected_B, nothing_B)


def plan(scored: ScoredRollout, settings: LossSettings, total: Total = lambda x: x) -> Plan:
    """Return the pairs, counted over the prompts that have one."""
    chosen_B, rejected_B = choose(scored.scores_BK, scored.satisfied_BK, scored.known_BK)
    return Plan(
        weights_BK=torch.zeros_like(scored.scores_BK),
        baseline_weights_B=torch.zeros_like(scored.baseline_scores_B),
        chosen_B=chosen_B,
        rejected_B=rejected_B,
        rewards_BK=constrain(scored.scores_BK, scored.satisfied_BK).masked_fill(~scored.known_BK, torch.nan),
        count=total((chosen_B >= 0).sum().to(scored.scores_BK.dtype)),
    )


def loss(
    logprobs_BK: Tensor, baseline_logprobs_B: Tensor, scored: ScoredRollout, plan: Plan, settings: LossSettings
) -> Tensor:
    """Return the regularised preference loss of these rows.

    -(1/n) sum [ log sigmoid( beta*log(pi_w(a+)/pi_ref(a+)) - beta*log(pi_w(a-)/pi_ref(a-)) )
                 + (lamb/|a+|) * log pi_w(a+) ]

    Source: eq 14, with the sign that descends (eq 15 has it reversed).

    Args:
        logprobs_BK: log pi_w, nats per completion, with gradient.
        baseline_logprobs_B: not read.
        scored: `ref_logprobs_BK`, nats, and `lengths_BK`, tokens.
        plan: the pairs and n.
        settings: `beta`, per nat; `lamb`, per nat and token.

    Returns:
        A scalar.
    """
    kept = (plan.chosen_B >= 0).nonzero().flatten()
    chosen, rejected = plan.chosen_B[kept], plan.rejected_B[kept]
    chosen_logprobs = logprobs_BK[kept, chosen]
    chosen_ratios = chosen_logprobs - scored.ref_logprobs_BK[kept, chosen]
    rejected_ratios = logprobs_BK[kept, rejected] - scored.ref_logprobs_BK[kept, rejected]
    preference = F.logsigmoid(settings.beta * (chosen_ratios - rejected_ratios))
    likelihood = settings.lamb / scored.lengths_BK[kept, chosen].clamp(min=1) * chosen_logprobs
    return -(preference + likelihood).sum() / plan.count.clamp(min=1)
