"""The attention that a model computes for a while, in place of its own: the same numbers, sooner, on a CPU.

torch's fused kernel there multiplies at a fraction of what a plain matrix product reaches in bfloat16. Two cases are
worth their own way: completions that share prompts (`trainer.arrangement`), and the one new token of generation.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from trainer.arrangement import Arrangement, attend, scores

__all__ = ["can_replace", "is_plain_pass", "own_attention"]

NAME = "cgpo"
_arrangement: ContextVar[Arrangement | None] = ContextVar("arrangement", default=None)


def can_replace(inner: nn.Module) -> bool:
    """Return whether a model's attention is one that `own_attention` can stand in for: torch's, on a CPU."""
    config = getattr(inner, "config", None)
    return (
        getattr(config, "_attn_implementation", None) == "sdpa"
        and not getattr(config, "sub_configs", None)
        and next(inner.parameters()).device.type == "cpu"
    )


def is_plain_pass(inner: nn.Module) -> bool:
    """Return whether a forward pass computes attention once and without chance: no checkpointing, no dropout."""
    if not inner.training:
        return True
    for module in inner.modules():
        is_repeated = getattr(module, "gradient_checkpointing", False)
        if is_repeated or (isinstance(module, nn.Dropout) and module.p > 0):
            return False
        if any(isinstance(value, float) and value > 0 and "dropout" in name for name, value in vars(module).items()):
            return False
    return True


@contextmanager
def own_attention(inner: Any, arrangement: Arrangement | None = None) -> Iterator[None]:
    """Let a model compute attention here, where `can_replace` says so.

    Args:
        inner: the model, without a wrapper.
        arrangement: of the one row that goes through it; None where a row is a sequence.
    """
    if not can_replace(inner):
        yield
        return
    before = inner.config._attn_implementation
    token = _arrangement.set(arrangement)
    inner.config._attn_implementation = NAME
    try:
        yield
    finally:
        inner.config._attn_implementation = before
        _arrangement.reset(token)


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **named: Any
) -> tuple[Tensor, None]:
    """Compute attention as `AttentionInterface` has it: states are of shape batch, heads, tokens, width."""
    arrangement = _arrangement.get()
    scaling = named.get("scaling") or query.shape[-1] ** -0.5
    kind = query.device.type
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    if arrangement is not None:
        return attend(query, key, value, arrangement, scaling), None
    is_odd = any(named.get(name) is not None for name in ("position_bias", "softcap", "s_aux"))
    if query.shape[2] > 1 or query.dtype == torch.float32 or torch.is_grad_enabled() or is_odd:
        found: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **named)
        return found
    return _of_one_token(query, key, value, attention_mask, scaling), None


def _of_one_token(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
    """Return the output for one query per row: the heads that share a key are the rows of one product.

    A product copies what has gaps, so keys and values are taken with the room behind them, which the mask takes out.
    """
    batch, heads, _, width = query.shape
    length = key.shape[2]
    keys, values = (getattr(states, "with_room", states) for states in (key, value))
    room = keys.shape[2]
    found = scores(query.reshape(batch * key.shape[1], -1, width), keys.reshape(-1, room, width), scaling)
    by_head = found.view(batch, heads, 1, room)
    if mask is not None and mask.dtype == torch.bool:
        by_head.add_(_added(mask, room))
    else:
        by_head[..., length:] = float("-inf")
        if mask is not None:
            by_head[..., :length].add_(mask)
    weights = torch.softmax(found, dim=-1).to(query.dtype)
    return torch.bmm(weights, values.reshape(-1, room, value.shape[-1])).view(batch, 1, heads, -1)


def _added(mask: Tensor, room: int) -> Tensor:
    """Return a mask as what is added to scores, those of the room behind the tokens too; made once for all layers."""
    added: Tensor | None = getattr(mask, "added", None)
    if added is None or added.shape[-1] != room:
        hidden = functional.pad(~mask, (0, room - mask.shape[-1]), value=True)
        added = torch.zeros_like(hidden, dtype=torch.float32).masked_fill_(hidden, float("-inf"))
        mask.added = added  # type: ignore[attr-defined]
    return added


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
