"""Forward passes of a causal language model in which something else stands in for its head.

The call goes through whatever wraps the model, and what comes out goes out through every wrapper: some gather
parameters for the backward pass by what their forward returned.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from trainer.attention import own_attention
from trainer.lean_layers import lean_layers
from trainer.packing import PackedRows

__all__ = ["forward_packed", "head_of", "innermost", "is_compiled", "names_of_forward", "replaced_head"]


def forward_packed(model: nn.Module, packed: PackedRows, compute: Callable[[Tensor, nn.Linear], Tensor]) -> Tensor:
    """Return what `compute` makes of the hidden states at `packed.source_M` and of the head."""
    inner = innermost(model)
    arguments: dict[str, Any] = {"input_ids": packed.input_ids_RL}
    if "use_cache" in names_of_forward(inner):
        arguments["use_cache"] = False
    if packed.arrangement is not None:
        # A mask of four dimensions is handed on as it is, so none is made; attention by an arrangement reads none.
        arguments["attention_mask"] = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=packed.input_ids_RL.device)
        arguments["position_ids"] = packed.position_ids_RL
    elif packed.mask_R1LL is not None:
        is_eager = inner.config._attn_implementation == "eager"
        arguments["attention_mask"] = _additive(packed.mask_R1LL, inner.dtype) if is_eager else packed.mask_R1LL
        arguments["position_ids"] = packed.position_ids_RL
    found: list[Tensor] = []

    def other_head(hidden_RLH: Tensor) -> Tensor:
        hidden_MH = hidden_RLH.flatten(0, 1).index_select(0, packed.source_M)
        found.append(compute(hidden_MH, head_of(inner)))
        # Logits of no use to anyone, for whatever the model does with them; not a view: FSDP2 warns of views.
        return hidden_RLH[:, :1, :1].clone()

    hook = inner.register_forward_hook(lambda *_: found[0], prepend=True)
    own = nullcontext() if packed.arrangement is None else own_attention(inner, packed.arrangement)
    try:
        with replaced_head(inner, other_head), own, lean_layers(inner):
            return model(**arguments)
    finally:
        hook.remove()


@contextmanager
def replaced_head(inner: nn.Module, forward: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Let `forward` stand in for the head's own."""
    head = head_of(inner)
    head.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        del head.forward


def head_of(inner: nn.Module) -> Any:
    """Return the module that makes logits; None where the model names none."""
    return inner.get_output_embeddings() if hasattr(inner, "get_output_embeddings") else None


def innermost(model: nn.Module) -> nn.Module:
    """Return the model inside DistributedDataParallel, torch.compile and peft; each wraps in a way of its own."""
    while True:
        inner = getattr(model, "module", None) or getattr(model, "_orig_mod", None)
        if inner is None and hasattr(model, "get_base_model"):
            inner = model.get_base_model()
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def is_compiled(model: nn.Module) -> bool:
    """Return whether torch.compile has any part of the model: it would trace the stand-in."""
    return any(hasattr(m, "_orig_mod") or getattr(m, "_compiled_call_impl", None) for m in model.modules())


def names_of_forward(inner: nn.Module) -> set[str]:
    """Return which arguments a model's forward names: not every architecture takes position ids."""
    # The class's forward: mixed precision puts one without names in its place on the instance.
    return set(inspect.signature(type(inner).forward).parameters)


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)
