"""The shapes of this package, and the three stages of a batch: `Rollout`, `ScoredRollout`, `Plan`.

Suffixes of tensor names, everywhere:

    B   prompts of one optimizer step on this process
    K   completions per prompt
    P   prompt tokens, padded on the left
    T   completion tokens, padded on the right
    N   sequences, B * K flattened (and, behind them, B baselines where the loss may train on them)
    J   judges of the mixture, in its order

Log-probabilities are sums over a completion's tokens, in nats. Scores are the reward model's raw numbers.
Each stage checks its shapes on construction.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor

__all__ = ["Plan", "Rollout", "ScoredRollout", "Sequences", "Total"]

Total = Callable[[Tensor], Tensor]
"""Sums a tensor over all processes; the identity where there is one."""


def _check(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> None:
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, wanted {shape}")
    if dtype is not None and tensor.dtype != dtype:
        raise ValueError(f"{name} has dtype {tensor.dtype}, wanted {dtype}")


@dataclass(frozen=True)
class Sequences:
    """N prompts with one completion each: prompts padded on the left, completions on the right.

    A completion's mask covers its tokens up to and including the first end-of-sequence token, nothing after it.
    """

    prompt_ids_NP: Tensor
    prompt_mask_NP: Tensor
    completion_ids_NT: Tensor
    completion_mask_NT: Tensor

    def __post_init__(self) -> None:
        num_rows, num_prompt_tokens = self.prompt_ids_NP.shape
        _check("prompt_mask_NP", self.prompt_mask_NP, (num_rows, num_prompt_tokens), torch.bool)
        _check("completion_mask_NT", self.completion_mask_NT, tuple(self.completion_ids_NT.shape), torch.bool)
        _check("completion_ids_NT", self.completion_ids_NT, (num_rows, self.completion_ids_NT.shape[1]))

    def __len__(self) -> int:
        return self.prompt_ids_NP.shape[0]

    def select(self, index: Tensor | slice) -> "Sequences":
        """Return the rows that `index` names, without the columns in which all of them are padding."""
        prompt_mask = self.prompt_mask_NP[index]
        completion_mask = self.completion_mask_NT[index]
        first = int((~prompt_mask.any(dim=0)).sum())
        length = max(int(completion_mask.sum(dim=1).max()) if len(completion_mask) else 0, 1)
        return Sequences(
            self.prompt_ids_NP[index][:, first:],
            prompt_mask[:, first:],
            self.completion_ids_NT[index][:, :length],
            completion_mask[:, :length],
        )


@dataclass(frozen=True)
class Rollout:
    """K completions of each of B prompts, as tokens and as text.

    `sequences` holds B * K rows, prompt by prompt; where `baselines` is true, B further rows with the baselines.
    """

    sequences: Sequences
    completions: list[list[str]]
    has_eos_BK: Tensor
    baselines: bool = False

    def __post_init__(self) -> None:
        num_prompts, k = self.has_eos_BK.shape
        if [len(row) for row in self.completions] != [k] * num_prompts:
            raise ValueError(f"completions are not {num_prompts} lists of {k} strings")
        wanted = num_prompts * (k + self.baselines)
        if len(self.sequences) != wanted:
            raise ValueError(f"{len(self.sequences)} sequences, wanted {wanted}")

    @property
    def lengths_BK(self) -> Tensor:
        """Tokens of each completion, end-of-sequence included."""
        num_prompts, k = self.has_eos_BK.shape
        return self.sequences.completion_mask_NT.sum(dim=1)[: num_prompts * k].view(num_prompts, k)


@dataclass(frozen=True)
class _Rows:
    """A bundle of tensors that all begin with dimension B."""

    def rows(self, start: int, stop: int) -> Self:
        """Return the same bundle for prompts `start` to `stop - 1`."""
        named = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{n: v[start:stop] for n, v in named.items() if isinstance(v, Tensor) and v.dim() > 0})


@dataclass(frozen=True)
class ScoredRollout(_Rows):
    """What judges, reward model, policy and reference said of a rollout. Nothing here carries a gradient.

    `known_BK` is false where any judge that matters, or the reward model, gave no answer: such a sample takes part in
    no loss, no mean and no denominator. `satisfied_BK` is meaningful only where `known_BK` is true, and false
    elsewhere. Baseline tensors are per prompt; `baseline_known_B` is false where its score is missing;
    `baseline_satisfied_B` is true only where its verdict is known to be satisfied.

    `judges` names the J judges. `judge_known_BKJ` is false where a judge does not apply to a sample or gave no answer,
    and where the sample itself is not known; `judge_satisfied_BKJ` is meaningful only where it is true, and false
    elsewhere.
    """

    scores_BK: Tensor
    satisfied_BK: Tensor
    known_BK: Tensor
    judges: tuple[str, ...]
    judge_satisfied_BKJ: Tensor
    judge_known_BKJ: Tensor
    logprobs_BK: Tensor
    ref_logprobs_BK: Tensor
    lengths_BK: Tensor
    baseline_scores_B: Tensor
    baseline_known_B: Tensor
    baseline_satisfied_B: Tensor
    baseline_logprobs_B: Tensor
    baseline_logratios_B: Tensor

    def __post_init__(self) -> None:
        shape = (*self.scores_BK.shape, len(self.judges))
        for f in fields(self):
            if f.name != "judges":
                dtype = torch.bool if "satisfied" in f.name or "known" in f.name else None
                _check(f.name, getattr(self, f.name), shape[: len(f.name.rpartition("_")[2])], dtype)
        if bool((self.satisfied_BK & ~self.known_BK).any()):
            raise ValueError("a sample is satisfied but not known")
        if bool((self.judge_satisfied_BKJ & ~self.judge_known_BKJ).any()):
            raise ValueError("a judge is satisfied but not known")
        if bool((self.judge_known_BKJ & ~self.known_BK[:, :, None]).any()):
            raise ValueError("a judge is known of a sample that is not known")

    @property
    def logratios_BK(self) -> Tensor:
        """log pi_w(a|s) - log pi_ref(a|s), nats per completion."""
        return self.logprobs_BK - self.ref_logprobs_BK


@dataclass(frozen=True)
class Plan(_Rows):
    """What a loss makes of a scored rollout: which samples are trained on, and how strongly. Constants, no gradient.

    weights_BK: factor of -log pi_w(a|s) of each completion; 0 where it takes no part.
    baseline_weights_B: the same for the baselines.
    chosen_B, rejected_B: column of the preferred and the dispreferred completion of each prompt; -1 where there is
        no pair.
    rewards_BK: what the optimizer maximises, for the metrics; NaN where unknown.
    count: what the sum of the loss is divided by: samples or prompts that take part, over all processes.
    """

    weights_BK: Tensor
    baseline_weights_B: Tensor
    chosen_B: Tensor
    rejected_B: Tensor
    rewards_BK: Tensor
    count: Tensor

    @property
    def used_BK(self) -> Tensor:
        """Completions whose log-probability the loss needs, as booleans."""
        columns = torch.arange(self.weights_BK.shape[1], device=self.weights_BK.device)
        pairs = (columns == self.chosen_B[:, None]) | (columns == self.rejected_B[:, None])
        return (self.weights_BK != 0) | pairs
