"""Log-probabilities of completions, by one function for policy and reference alike.

The model's body runs as it is, through whatever wraps it; for the length of the call its head is replaced by one that
takes only the hidden states that predict completion tokens, and only a chunk of them at a time. Whether that is exact
for a model is measured once on a few tokens; where it is not, the model's own logits are used.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trainer.abilities import abilities, fits_window
from trainer.attention import can_replace, is_plain_pass
from trainer.batch import Sequences
from trainer.captured import forward_packed, innermost, names_of_forward
from trainer.head import token_logprobs, weighted_logprobs
from trainer.packing import batches, filling, groups, pack

__all__ = [
    "completion_logprobs",
    "in_parts",
    "is_arranged",
    "logprobs_in_batches",
    "part_to_keep",
    "shared_rows",
    "weighted_sum",
]


def completion_logprobs(
    model: nn.Module, sequences: Sequences, rows: list[list[int]] | None = None, keep: bool = False
) -> Tensor:
    """Return log pi(a|s) of each completion: the sum over its tokens, end-of-sequence included.

    log pi(a|s) = sum_t log softmax(logits_{t-1})[a_t]

    The logits at position t predict token t + 1, so completion tokens are gathered one position earlier. Raw logits at
    temperature 1. Positions count real tokens only, so padding changes nothing. Float32 from the logits on.

    Args:
        model: a causal language model, wrapped or not; its forward is called once.
        sequences: N prompts with their completions.
        rows: which sequences, and which of them share a row, as `shared_rows` returns it. Default: each has its own.
        keep: whether a backward pass follows, once its factors are known: the head's gradient is kept for it.

    Returns:
        Nats per completion, shape N, with gradient where gradients are on; 0 for a sequence in no row.
    """
    rows = [[n] for n in range(len(sequences))] if rows is None else rows
    rule = abilities(model).rule
    logprobs_N = torch.zeros(len(sequences), dtype=torch.float32, device=sequences.prompt_ids_NP.device)
    if rule is None:
        index = _members(rows, logprobs_N)
        return logprobs_N.index_put((index,), _from_own_logits(model, sequences.select(index)))
    packed = pack(sequences, rows, is_arranged(model, sequences))
    logprobs_M = forward_packed(
        model, packed, lambda hidden, head: token_logprobs(hidden, head, packed.target_M, rule, keep)
    )
    return logprobs_N.index_add(0, packed.sequence_M, logprobs_M)


@torch.no_grad()
def logprobs_in_batches(model: nn.Module, sequences: Sequences, parts: Sequence[list[list[int]]]) -> Tensor:
    """Return the same without gradient, a forward pass for each part; 0 for a sequence in none."""
    logprobs_N = torch.zeros(len(sequences), dtype=torch.float32, device=sequences.prompt_ids_NP.device)
    for rows in parts:
        index = _members(rows, logprobs_N)
        logprobs_N[index] = completion_logprobs(model, sequences, rows)[index]
    return logprobs_N


def weighted_sum(model: nn.Module, sequences: Sequences, rows: list[list[int]], factor_N: Tensor) -> Tensor:
    """Return sum_n factor_n * log pi(a_n|s_n) over the sequences in `rows`, a scalar with gradient.

    The factors are constants, so the head's gradient is formed while its logits exist.

    Args:
        model: as above.
        sequences: as above.
        rows: as above.
        factor_N: per nat.
    """
    rule = abilities(model).rule
    if rule is None:
        return (factor_N * completion_logprobs(model, sequences, rows)).sum()
    packed = pack(sequences, rows, is_arranged(model, sequences))
    factor_M = factor_N.float()[packed.sequence_M]
    return forward_packed(
        model, packed, lambda hidden, head: weighted_logprobs(hidden, head, packed.target_M, rule, factor_M)
    )


def shared_rows(
    model: nn.Module, sequences: Sequences, most_tokens: int, members: list[int] | None = None
) -> list[list[int]]:
    """Return which sequences share a row, longest rows first: none where the model's attention does not allow it.

    Args:
        model: as above.
        sequences: as above.
        most_tokens: of a row that several share.
        members: which sequences are wanted. Default: all.
    """
    pair_cost = abilities(model).pair_cost
    if pair_cost is not None and not fits_window(model, sequences):
        pair_cost = None
    if is_arranged(model, sequences):
        pair_cost = 0.0
    return groups(sequences, range(len(sequences)) if members is None else members, pair_cost, most_tokens)


def in_parts(
    model: nn.Module, sequences: Sequences, most_tokens: int, members: list[int] | None = None
) -> list[list[list[int]]]:
    """Return rows, prompts shared, in parts of at most `most_tokens` tokens, padding included; one forward pass each.

    Args:
        model: as above.
        sequences: as above.
        most_tokens: of a part.
        members: which sequences are wanted. Default: all.
    """
    rows = shared_rows(model, sequences, most_tokens, members)
    return list(batches(sequences, rows, most_tokens, is_padded=not is_arranged(model, sequences)))


def part_to_keep(model: nn.Module, sequences: Sequences, most_tokens: int, members: list[int]) -> list[list[int]]:
    """Return the rows of one forward pass whose graph is to be kept: as many of its members as the budget has room for.

    Args:
        model: as above.
        sequences: as above.
        most_tokens: of the part.
        members: which sequences may be in it; not none.
    """
    if not is_arranged(model, sequences):
        return in_parts(model, sequences, most_tokens, members)[0]
    return filling(sequences, shared_rows(model, sequences, most_tokens, members), most_tokens)


def is_arranged(model: nn.Module, sequences: Sequences) -> bool:
    """Return whether attention is computed by an arrangement, so that rows cost no pair that is not needed."""
    inner = innermost(model)
    can = abilities(model).is_arranged and can_replace(inner)  # the model's attention may have been set since
    return can and is_plain_pass(inner) and fits_window(model, sequences)


def _members(rows: list[list[int]], like: Tensor) -> Tensor:
    return torch.tensor([n for row in rows for n in row], dtype=torch.long, device=like.device)


def _from_own_logits(model: nn.Module, sequences: Sequences) -> Tensor:
    """Return the log-probabilities from the logits that the model itself returns: for any model, at any cost."""
    num_completion_tokens = sequences.completion_ids_NT.shape[1]
    input_ids = torch.cat([sequences.prompt_ids_NP, sequences.completion_ids_NT], dim=1)
    mask = torch.cat([sequences.prompt_mask_NP, sequences.completion_mask_NT], dim=1).long()
    arguments = {
        "input_ids": input_ids,
        "attention_mask": mask,
        "position_ids": (mask.cumsum(dim=1) - 1).clamp(min=0),
        "use_cache": False,
        "logits_to_keep": num_completion_tokens + 1,
    }
    names = names_of_forward(innermost(model))
    logits = model(**{name: value for name, value in arguments.items() if name in names}).logits
    logits_NTV = logits[:, -num_completion_tokens - 1 : -1].float()
    picked_NT = logits_NTV.gather(2, sequences.completion_ids_NT[:, :, None]).squeeze(2)
    logprobs_NT = picked_NT - torch.logsumexp(logits_NTV, dim=2)
    return torch.where(sequences.completion_mask_NT, logprobs_NT, torch.zeros_like(logprobs_NT)).sum(dim=1)
