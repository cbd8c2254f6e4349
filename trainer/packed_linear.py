"""Linear layers with their weights laid out for many small products, for as long as generation lasts."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.lean_layers import autocast_dtype, cast_once, other_forwards

__all__ = ["packed_linears", "product_with"]

READ_ALIKE = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Children of one module that get the same input, where a model names them so: one product makes all their outputs."""


@contextmanager
def packed_linears(model: nn.Module, rows: int) -> Iterator[None]:
    """Let every plain linear layer compute from a copy of its weight, cast and laid out once instead of at each call.

    The weights themselves are not touched: the layers get another forward, and lose it again. The copy has the type
    that the layer would compute in here: that of autocast where it is on, else its own.

    Args:
        model: its layers of exactly the class `torch.nn.Linear` change; an adapter's are among them, and one that is
            merged into its layer is passed over.
        rows: of the products to come, about.
    """
    forwards: dict[nn.Module, Callable[[Tensor], Tensor]] = {}
    for group in _groups(model):
        together = _Together.of(group, rows)
        forwards |= {} if together is None else together.forwards(group)
    merged: list[Any] = [module for module in model.modules() if _is_merged(module)]
    idle = {below for module in merged for below in module.modules() if below is not module.base_layer}
    for module in model.modules():
        is_plain = type(module) is nn.Linear and "forward" not in vars(module)
        if is_plain and module not in idle and module not in forwards:
            own = _packed(module, rows)
            forwards |= {} if own is None else {module: own}
    forwards |= {module: forwards[module.base_layer] for module in merged if module.base_layer in forwards}
    with other_forwards(forwards, forwards.get):
        yield


def product_with(weight: Tensor, bias: Tensor | None, rows: int) -> Callable[[Tensor], Tensor]:
    """Return x -> x @ weight.T + bias for x of the weight's type, without gradient; the weight is laid out once.

    Args:
        weight: in the type that is computed in.
        bias: likewise.
        rows: of the products to come, about.
    """
    if _is_laid_out(weight.device.type, weight.dtype):
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), rows)
        multiply = torch.ops.mkldnn._linear_pointwise
        return lambda x: multiply(x, packed, bias, "none", [], "")
    return lambda x: functional.linear(x, weight, bias)


def _packed(module: nn.Linear, rows: int) -> Callable[[Tensor], Tensor] | None:
    """Return the layer's forward on a copy of its weight, None where a copy gains nothing."""
    dtype = _compute_dtype(module)
    if not _is_laid_out(module.weight.device.type, dtype) and dtype == module.weight.dtype:
        return None
    bias = None if module.bias is None else module.bias.detach().to(dtype)
    multiply = product_with(module.weight.detach().to(dtype), bias, rows)
    return lambda x: multiply(cast_once(x, dtype))


def _is_merged(module: Any) -> bool:
    """Return whether a module is an adapter around a layer that has become part of it: it only hands its input on."""
    return bool(getattr(module, "merged", False) and hasattr(module, "base_layer") and not module.disable_adapters)


def _compute_dtype(module: nn.Linear) -> torch.dtype:
    return autocast_dtype(module.weight) or module.weight.dtype


def _groups(model: nn.Module) -> Iterator[list[nn.Linear]]:
    """Yield the layers that read the same input, below an adapter too."""
    for module in model.modules():
        for names in READ_ALIKE:
            named = [getattr(module, name, None) for name in names]
            layers = [getattr(child, "base_layer", child) for child in named]
            if all(type(layer) is nn.Linear and "forward" not in vars(layer) for layer in layers):
                yield layers


class _Together:
    """Several layers as one: the first that gets an input computes the outputs of all of them.

    Args:
        weight: theirs, one below the other.
        bias: likewise.
        sizes: number of outputs of each.
        rows: of the products to come, about.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, sizes: list[int], rows: int) -> None:
        self._multiply = product_with(weight, bias, rows)
        self._dtype, self._sizes = weight.dtype, sizes

    @classmethod
    def of(cls, layers: Sequence[nn.Linear], rows: int) -> "_Together | None":
        """Return the layers as one, None where they do not fit together, or where it gains nothing."""
        first = layers[0]
        dtype = _compute_dtype(first)
        kinds = {
            (layer.in_features, layer.bias is None, layer.weight.device, _compute_dtype(layer)) for layer in layers
        }
        if len(kinds) > 1 or not _is_laid_out(first.weight.device.type, dtype):
            return None
        weight = torch.cat([layer.weight.detach().to(dtype) for layer in layers])
        bias = None if first.bias is None else torch.cat([layer.bias.detach().to(dtype) for layer in layers])
        return cls(weight, bias, [layer.out_features for layer in layers], rows)

    def forwards(self, layers: Sequence[nn.Linear]) -> dict[nn.Module, Callable[[Tensor], Tensor]]:
        """Return each layer's forward."""
        return {layer: partial(self._output, index) for index, layer in enumerate(layers)}

    def _output(self, index: int, x: Tensor) -> Tensor:
        version = None if x.is_inference() else x._version
        known: tuple[_Together, int | None, tuple[Tensor, ...]] | None = getattr(x, "known_outputs", None)
        if known is None or known[0] is not self or known[1] != version:
            known = (self, version, self._multiply(cast_once(x, self._dtype)).split(self._sizes, dim=-1))
            x.known_outputs = known  # type: ignore[attr-defined]
        return known[2][index]


def _is_laid_out(device: str, dtype: torch.dtype) -> bool:
    """Return whether torch has, for this processor, the operators that its compiler uses for constant weights."""
    if device != "cpu" or dtype != torch.bfloat16:
        return False
    operators = torch.ops.mkldnn
    named = ("_reorder_linear_weight", "_linear_pointwise", "_is_mkldnn_bf16_supported")
    has_all = torch.backends.mkldnn.is_available() and all(hasattr(operators, name) for name in named)
    return has_all and bool(operators._is_mkldnn_bf16_supported())
