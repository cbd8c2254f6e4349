"""An adapter merged into dense weights for a while: generation then runs without its extra products."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["merged_adapter"]


@contextmanager
def merged_adapter(model: Any) -> Iterator[None]:
    """Merge the active adapter into the weights below it, and put back those weights bit for bit afterwards.

    Taking a merged adapter out again by subtraction leaves rounding errors behind, step after step. So the weights
    below it are kept and copied back. Nothing happens where there is no adapter, where it is switched off, or where
    its kind cannot be merged.
    """
    layers = _adapted_layers(model)
    if not layers:
        yield
        return
    kept = _weights_below(layers)
    try:
        _merge(model)
        yield
    finally:
        for layer in layers:
            if layer.merged:
                layer.unmerge()
        for parameter, storage, content in kept:
            storage.copy_(content)
            parameter.data = storage  # some kinds of adapters put another tensor in its place


def _adapted_layers(model: Any) -> list[Any]:
    """Return the layers whose adapter is on and not merged yet; none where one is off, which then is the reference."""
    if not hasattr(model, "peft_config"):
        return []
    from peft.tuners.tuners_utils import BaseTunerLayer  # only where there is an adapter: importing it takes a second

    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    is_plain = all(not layer.disable_adapters and not layer.merged for layer in layers)
    return layers if is_plain and hasattr(model, "merge_adapter") else []


def _weights_below(layers: list[Any]) -> list[tuple[nn.Parameter, Tensor, Tensor]]:
    """Return every parameter that merging may touch, once, with its storage and a copy of what it holds."""
    found = {id(p): p for layer in layers for p in layer.get_base_layer().parameters()}
    return [(p, p.data, p.data.clone()) for p in found.values()]


def _merge(model: Any) -> None:
    """Merge what can be merged; an adapter of another kind stays beside the weights, which is slower and as right."""
    kind = next(model.parameters()).device.type
    with torch.no_grad(), torch.autocast(kind, enabled=False):  # mixed precision would round what is added
        try:
            model.merge_adapter()
        except (NotImplementedError, ValueError):
            return
