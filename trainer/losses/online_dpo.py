"""Online DPO (arXiv 2402.04792): the best against the worst of K by score, constraints not asked."""

from dataclasses import replace

from torch import Tensor

from trainer.batch import Plan, ScoredRollout
from trainer.loss import LossSettings, Total
from trainer.losses import codpo

NEEDS_BASELINES = False
TRAINS_ON_BASELINES = False
NEEDS_ALL_LOGPROBS = False
MIN_K = 2


def plan(scored: ScoredRollout, settings: LossSettings, total: Total = lambda x: x) -> Plan:
    """Return the pairs, counted over the prompts that have one: CODPO's, as if every known sample were satisfied.

    a+ = argmax_k r(s, a_k),  a- = argmin_k r(s, a_k)

    Source: arXiv 2402.04792, its preference taken from the reward model. A completion is never compared with itself.

    Args:
        scored: scores, any scale.
        settings: not read.
        total: sums over processes.
    """
    return codpo.plan(replace(scored, satisfied_BK=scored.known_BK), settings, total)


def loss(
    logprobs_BK: Tensor, baseline_logprobs_B: Tensor, scored: ScoredRollout, plan: Plan, settings: LossSettings
) -> Tensor:
    """Return the preference loss of these rows: CODPO's without its term of likelihood.

    -(1/n) sum log sigmoid( beta*log(pi_w(a+)/pi_ref(a+)) - beta*log(pi_w(a-)/pi_ref(a-)) )

    Source: DPO (arXiv 2305.18290).

    Args:
        logprobs_BK: log pi_w, nats per completion, with gradient.
        baseline_logprobs_B: not read.
        scored: `ref_logprobs_BK`, nats.
        plan: the pairs and n.
        settings: `beta`, per nat.

    Returns:
        A scalar.
    """
    return codpo.loss(logprobs_BK, baseline_logprobs_B, scored, plan, replace(settings, lamb=0.0))
