"""log pi_w and log pi_ref of an iteration's sequences: of those that somebody needs, each found once.

Policy and reference go over the same tokens in the same parts by the same function, so of equal models the log-ratio is
exactly 0. The graph of the first part is kept, where the update may need it: that part is not computed a second time.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from trainer.abilities import abilities
from trainer.attention import is_plain_pass
from trainer.batch import Sequences
from trainer.captured import innermost
from trainer.logprobs import completion_logprobs, in_parts, logprobs_in_batches, part_to_keep

__all__ = ["Kept", "Likelihoods", "Models"]


class Kept(NamedTuple):
    """Rows of sequences whose log-probabilities still have their graph, and these, nats, shape N; 0 for all others."""

    rows: list[list[int]]
    logprobs_N: Tensor


@dataclass(frozen=True)
class Models:
    """Policy and reference, and how they go forward.

    Args:
        policy: wrapped.
        reference: yields the reference, whose forward pass takes the same arguments.
        autocast: yields mixed precision as the run has it.
        most_tokens: of a forward pass without gradient, padding included.
        kept_tokens: of a forward pass whose graph is kept.
        agree: from a number of this process to the largest of all: processes go forward together.
    """

    policy: nn.Module
    reference: Callable[[], AbstractContextManager[nn.Module]]
    autocast: Callable[[], AbstractContextManager[None]]
    most_tokens: int
    kept_tokens: int
    agree: Callable[[int], int]

    def can_keep(self) -> bool:
        """Return whether a graph of now serves the update: what training computes differently, it has to compute."""
        was_training = self.policy.training
        self.policy.train()
        try:
            with self.autocast():
                return is_plain_pass(innermost(self.policy)) and abilities(self.policy).rule is not None
        finally:
            self.policy.train(was_training)


class Likelihoods:
    """What is known of the log-probabilities of some sequences.

    Args:
        models: policy and reference, which do not change meanwhile.
        sequences: N of them.
        keep: whether an update may follow that takes the graph.

    Attributes:
        logprobs_N: log pi_w, nats, without gradient; NaN where it is not known.
        ref_logprobs_N: log pi_ref, the same.
        is_known_N: where they are known.
    """

    def __init__(self, models: Models, sequences: Sequences, keep: bool) -> None:
        self._models = models
        self._sequences = sequences
        self._keep = keep and models.can_keep()
        self._kept: Kept | None = None
        device = sequences.prompt_ids_NP.device
        self.logprobs_N = torch.full((len(sequences),), torch.nan, dtype=torch.float32, device=device)
        self.ref_logprobs_N = self.logprobs_N.clone()
        self.is_known_N = torch.zeros_like(self.logprobs_N, dtype=torch.bool)

    def find(self, wanted_N: Tensor, trained_on_N: Tensor) -> None:
        """Make these log-probabilities known. All processes call this equally often.

        Args:
            wanted_N: whose, as booleans.
            trained_on_N: of which the update may need the gradient. What is known of them without a graph goes forward
                again with the others: a pass of its own would cost more.
        """
        model, most_tokens = self._models.policy, self._models.most_tokens
        missing_N = wanted_N & ~self.is_known_N
        kept = self._part_to_keep(trained_on_N) if (missing_N & trained_on_N).any() else []
        found_N = missing_N.clone()
        found_N[[n for row in kept for n in row]] = False
        members = found_N.nonzero().flatten().tolist()
        was_training = model.training
        model.eval()
        try:
            parts = [kept] if kept else []
            if kept:
                # A context of its own, and first: a weight that is cast without gradient stays so within a context.
                with self._models.autocast(), torch.enable_grad():
                    logprobs_N = completion_logprobs(model, self._sequences, kept, keep=True)
                self._kept = Kept(kept, logprobs_N)
            with self._models.autocast():
                abilities(model)  # asked by forward passes the first time, so by all processes, also without members
                others = in_parts(model, self._sequences, most_tokens, members) if members else []
                others += [[[0]]] * (self._models.agree(len(others)) - len(others))
                policy_N = logprobs_in_batches(model, self._sequences, others)
                if self._kept is not None and kept:
                    policy_N = policy_N + self._kept.logprobs_N.detach()
                with self._models.reference() as reference:
                    reference_N = logprobs_in_batches(reference, self._sequences, [*parts, *others])
        finally:
            model.train(was_training)
        self.logprobs_N = torch.where(missing_N, policy_N, self.logprobs_N)
        self.ref_logprobs_N = torch.where(missing_N, reference_N, self.ref_logprobs_N)
        self.is_known_N = self.is_known_N | wanted_N

    def take_kept(self) -> Kept | None:
        """Hand over the part whose graph is kept, once: a graph is good for one backward pass."""
        kept, self._kept = self._kept, None
        return kept

    def _part_to_keep(self, candidates_N: Tensor) -> list[list[int]]:
        members = candidates_N.nonzero().flatten().tolist()
        if not self._keep or self._kept is not None or not members:
            return []
        with self._models.autocast():
            return part_to_keep(self._models.policy, self._sequences, self._models.kept_tokens, members)
