"""Attention among tokens that see each other, and no others: prompts by themselves, completions behind their prompt.

All tokens of a packed batch stand in one row, without padding. For attention they are arranged anew: G prompts of up to
P tokens, and N completions of up to T, each of which has one of the prompts before it, S = P + T. No pair of tokens is
computed that the mask would take out again, but for padding. Scores are float32 whatever the dtype, as in the kernels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Arrangement", "arrange", "attend", "scores"]

MOST_SCORES = 2**20
"""Scores that exist at once: 4 MiB in float32, which a cache holds."""


@dataclass(frozen=True)
class Arrangement:
    """Which token of the row has which place: first those of the prompts, G * P, then N * T of the completions.

    token_A: the token at each place; where there is none, any.
    is_filled_A1: whether there is one.
    place_L: the place of each token.
    prompt_N: the prompt of each completion.
    mask_NTS: what is added to the scores of a completion: 0 or minus infinity.
    prompts, completions: their shapes, G, P and N, T.
    alone: of the prompts by themselves, as if they were completions of an empty one.
    """

    token_A: Tensor
    is_filled_A1: Tensor
    place_L: Tensor
    prompt_N: Tensor
    mask_NTS: Tensor
    prompts: tuple[int, int]
    completions: tuple[int, int]
    alone: "Arrangement | None" = None


def arrange(groups: Sequence[tuple[int, Sequence[int]]], device: torch.device) -> Arrangement:
    """Return the arrangement of a row: per group the tokens of its prompt, and of each completion behind it."""
    num_completions = sum(len(completions) for _, completions in groups)
    longest_prompt = max(length for length, _ in groups)
    longest = max((length for _, completions in groups for length in completions), default=0) or 1
    prompts, completions = (len(groups), longest_prompt), (num_completions, longest)
    begin = len(groups) * longest_prompt
    places: list[int] = []
    prompt_of: list[int] = []
    sees = torch.zeros(num_completions, longest_prompt, dtype=torch.bool)
    for g, (prompt_length, lengths) in enumerate(groups):
        places.extend(range(g * longest_prompt, g * longest_prompt + prompt_length))
        for length in lengths:
            n = len(prompt_of)
            places.extend(range(begin + n * longest, begin + n * longest + length))
            sees[n, :prompt_length] = True
            prompt_of.append(g)
    place_L = torch.tensor(places)
    token_A = torch.zeros(begin + num_completions * longest, dtype=torch.long)
    is_filled_A = torch.zeros_like(token_A, dtype=torch.bool)
    token_A[place_L] = torch.arange(len(places))
    is_filled_A[place_L] = True
    own = torch.ones(longest, longest, dtype=torch.bool).tril().expand(num_completions, -1, -1)
    seen_NTS = torch.cat([sees[:, None].expand(-1, longest, -1), own], dim=2)
    mask_NTS = torch.zeros(seen_NTS.shape).masked_fill_(~seen_NTS, float("-inf"))
    arrangement = Arrangement(
        token_A.to(device), is_filled_A[:, None].to(device), place_L.to(device), torch.tensor(prompt_of).to(device),
        mask_NTS.to(device), prompts, completions,
    )  # fmt: skip
    causal_PP = torch.full((longest_prompt, longest_prompt), float("-inf"), device=device).triu(1)
    alone = replace(
        arrangement, prompt_N=torch.zeros(len(groups), dtype=torch.long, device=device),
        mask_NTS=causal_PP.expand(len(groups), -1, -1), prompts=(1, 0), completions=prompts,
    )  # fmt: skip
    return replace(arrangement, alone=alone)


def attend(query: Tensor, key: Tensor, value: Tensor, arrangement: Arrangement, scaling: float) -> Tensor:
    """Return attention's output, shape 1, L, heads, width.

    Args:
        query: shape 1, heads, L, width.
        key: the same with heads that may be fewer; then each serves as many queries' heads as it has to.
        value: like key.
        arrangement: of the L tokens.
        scaling: factor of the scores.
    """
    parts = [_arranged(states, arrangement) for states in (query, key, value)]
    (prompt_query, own_query), (prompt_key, own_key), (prompt_value, own_value) = parts
    of_prompts = _of_prompts(prompt_query, prompt_key, prompt_value, arrangement, scaling)
    of_completions = _Attend.apply(own_query, prompt_key, own_key, prompt_value, own_value, arrangement, scaling)
    both = torch.cat([of_prompts.flatten(0, 1), of_completions.flatten(0, 1)])
    return _Take.apply(both, arrangement.place_L, arrangement.token_A, arrangement.is_filled_A1)[None]


def _of_prompts(query: Tensor, key: Tensor, value: Tensor, arrangement: Arrangement, scaling: float) -> Tensor:
    """Return attention among the tokens of each prompt, by torch's kernel where it is long: that keeps no scores."""
    _, length, heads, _ = query.shape
    if arrangement.alone is not None and heads * length * length <= MOST_SCORES:
        no_key, no_value = (states.new_empty(1, 0, *states.shape[2:]) for states in (key, value))
        found: Tensor = _Attend.apply(query, no_key, key, no_value, value, arrangement.alone, scaling)
        return found
    shared = heads // key.shape[2]
    return F.scaled_dot_product_attention(
        query.transpose(1, 2),
        *(states.transpose(1, 2).repeat_interleave(shared, dim=1) for states in (key, value)),
        is_causal=True,
        scale=scaling,
    ).transpose(1, 2)


def scores(query_BTD: Tensor, key_BSD: Tensor, scaling: float) -> Tensor:
    """Return scaling * query @ key in float32 or above: a product below is rounded, so what it lost is computed too."""
    key_BDS = key_BSD.transpose(1, 2)
    product = torch.bmm(query_BTD, key_BDS)
    if product.element_size() >= 4:
        return product.mul_(scaling)
    lost = torch.baddbmm(product, query_BTD, key_BDS, beta=-1)
    return product.float().add_(lost.float()).mul_(scaling)


class _Take(torch.autograd.Function):
    """Rows by index; the way back is by index too, as no token stands at two places."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor, inverse: Tensor, is_real: Tensor | None) -> Tensor:
        ctx.inverse, ctx.is_real = inverse, is_real
        return rows.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        taken = gradient.flatten(1).index_select(0, ctx.inverse)
        if ctx.is_real is not None:
            taken = taken.masked_fill_(~ctx.is_real, 0)
        return taken.unflatten(1, gradient.shape[1:]), None, None, None


def _arranged(states: Tensor, arrangement: Arrangement) -> tuple[Tensor, Tensor]:
    """Return the states of prompts, G, P, heads, width, and those of completions, N, T, heads, width."""
    rows = states[0].transpose(0, 1)
    taken = _Take.apply(rows, arrangement.token_A, arrangement.place_L, None)
    (num_prompts, longest_prompt), completions = arrangement.prompts, arrangement.completions
    split = num_prompts * longest_prompt
    return taken[:split].unflatten(0, arrangement.prompts), taken[split:].unflatten(0, completions)


class _Attend(torch.autograd.Function):
    """Attention of completions to their prompts and to themselves; the backward pass computes the scores again."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, prompt_key: Tensor, own_key: Tensor, prompt_value: Tensor, own_value: Tensor,
        arrangement: Arrangement, scaling: float,
    ) -> Tensor:  # fmt: skip
        ctx.arrangement, ctx.scaling = arrangement, scaling
        output = query.new_empty(*query.shape[:-1], own_value.shape[-1])
        for part in _parts(query, arrangement):
            queries = _by_head(query[part], own_key.shape[2])
            keys, values = (
                _behind_prompt(*both, arrangement, part)
                for both in ((prompt_key, own_key), (prompt_value, own_value))
            )  # fmt: skip
            weights = _weights(queries, keys, arrangement, part, scaling).to(query.dtype)
            output[part] = _by_token(torch.bmm(weights, values), query[part])
        ctx.save_for_backward(query, prompt_key, own_key, prompt_value, own_value)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        query, prompt_key, own_key, prompt_value, own_value = ctx.saved_tensors
        arrangement: Arrangement = ctx.arrangement
        to_query, to_own_key, to_own_value = (torch.empty_like(t) for t in (query, own_key, own_value))
        to_prompt_key, to_prompt_value = (
            torch.zeros_like(t, dtype=_wide(t)) for t in (prompt_key, prompt_value)
        )  # fmt: skip
        split = arrangement.prompts[1]
        for part in _parts(query, arrangement):
            queries, given = (_by_head(t[part], own_key.shape[2]) for t in (query, gradient))
            keys, values = (
                _behind_prompt(*both, arrangement, part)
                for both in ((prompt_key, own_key), (prompt_value, own_value))
            )  # fmt: skip
            weights = _weights(queries, keys, arrangement, part, ctx.scaling)
            by_weight = torch.bmm(given, values.transpose(1, 2)).to(_wide(given))
            by_values = torch.bmm(weights.to(given.dtype).transpose(1, 2), given)
            mean = (weights * by_weight).sum(dim=-1, keepdim=True)
            by_score = by_weight.sub_(mean).mul_(weights).mul_(ctx.scaling).to(given.dtype)
            to_query[part] = _by_token(torch.bmm(by_score, keys), query[part])
            by_keys = torch.bmm(by_score.transpose(1, 2), queries)
            for found, to_prompt, to_own in (
                (by_keys, to_prompt_key, to_own_key), (by_values, to_prompt_value, to_own_value)
            ):  # fmt: skip
                by_token = found.unflatten(0, (-1, own_key.shape[2])).transpose(1, 2)
                to_prompt.index_add_(0, arrangement.prompt_N[part], by_token[:, :split].to(_wide(given)))
                to_own[part] = by_token[:, split:]
        shared = to_prompt_key.to(prompt_key.dtype), to_prompt_value.to(prompt_value.dtype)
        return to_query, shared[0], to_own_key, shared[1], to_own_value, None, None


def _wide(states: Tensor) -> torch.dtype:
    return torch.promote_types(states.dtype, torch.float32)


def _parts(query: Tensor, arrangement: Arrangement) -> Iterator[slice]:
    """Yield which completions are computed together."""
    of_one = query.shape[2] * arrangement.mask_NTS[0].numel()
    size = max(1, MOST_SCORES // of_one)
    for start in range(0, len(query), size):
        yield slice(start, min(start + size, len(query)))


def _by_head(states: Tensor, num_heads: int) -> Tensor:
    """Return N, T, heads, width as N * num_heads, (heads / num_heads) * T, width: one matrix per head of the keys."""
    return states.unflatten(2, (num_heads, -1)).permute(0, 2, 3, 1, 4).flatten(0, 1).flatten(1, 2)


def _by_token(states: Tensor, like: Tensor) -> Tensor:
    """Return what `_by_head` made of N, T, heads, ... in that shape again, the last width as it is."""
    num_completions, length, heads = like.shape[:3]
    by_head = states.unflatten(0, (num_completions, -1)).unflatten(2, (-1, length))
    return by_head.permute(0, 3, 1, 2, 4).reshape(num_completions, length, heads, -1)


def _behind_prompt(of_prompts: Tensor, own: Tensor, arrangement: Arrangement, part: slice) -> Tensor:
    """Return keys or values of some completions, those of their prompts before them, shape N * heads, S, width."""
    both = torch.cat([of_prompts.index_select(0, arrangement.prompt_N[part]), own[part]], dim=1)
    return both.transpose(1, 2).flatten(0, 1)


def _weights(queries: Tensor, keys: Tensor, arrangement: Arrangement, part: slice, scaling: float) -> Tensor:
    """Return how much each query takes of each value."""
    found = scores(queries, keys, scaling)
    mask_NTS = arrangement.mask_NTS[part]
    found.view(len(mask_NTS), -1, *mask_NTS.shape[1:]).add_(mask_NTS[:, None])
    return torch.softmax(found, dim=-1)
