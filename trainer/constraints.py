"""Masks over completions: which are known, which satisfy every judge, which stay within the KL threshold.

A verdict is `satisfied`, `violated` or `unknown`; the mixture of several is their Kleene AND.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["combine", "within_kl"]


def combine(outcomes: Iterable[str]) -> str:
    """Return the outcome of a mixture: any violated wins, else any unknown, else satisfied.

    Source: Kleene's three-valued AND; the paper has two values (eq 4).

    >>> combine(["satisfied", "unknown"]), combine(["violated", "unknown"]), combine([])
    ('unknown', 'violated', 'satisfied')
    """
    seen = set(outcomes)
    stray = seen - {"satisfied", "violated", "unknown"}
    if stray:
        raise ValueError(f"no outcome named {sorted(stray)[0]!r}; there are: satisfied, violated, unknown")
    if "violated" in seen:
        return "violated"
    return "unknown" if "unknown" in seen else "satisfied"


def within_kl(logratios: Tensor, kl_threshold: float) -> Tensor:
    """Return, as booleans, which log-ratios (nats per completion) do not exceed the threshold.

    log(pi_w(a|s) / pi_ref(a|s)) <= KL_max

    Source: eq 17. One that is not computed (NaN) does not exceed it: what a plan uses is computed, and planned anew.
    """
    return ~torch.gt(logratios, kl_threshold)
