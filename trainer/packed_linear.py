"""Linear layers with their weights laid out for many small products, for as long as generation lasts."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.adapted_linear import Affine, affine_of
from trainer.lean_layers import autocast_dtype, cast_once, other_forwards

__all__ = ["packed_linears", "packs_adapters", "product_with"]

READ_ALIKE = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Children of one module that get the same input, where a model names them so: one product makes all their outputs."""


@contextmanager
def packed_linears(model: nn.Module, rows: int) -> Iterator[None]:
    """Let every plain linear layer compute from a copy of its weight, cast and laid out once instead of at each call.

    The weights themselves are not touched: the layers get another forward, and lose it again. The copy has the type
    that the layer would compute in here: that of autocast where it is on, else its own. A LoRA adapter is part of it.

    Args:
        model: its layers of exactly the class `torch.nn.Linear` change, and those with an adapter, LoRA's or one that
            is merged into its layer.
        rows: of the products to come, about.
    """
    forwards: dict[nn.Module, Callable[[Tensor], Tensor]] = {}
    for group in _groups(model):
        together = _Together.of([affine for _, affine in group], rows)
        forwards |= {} if together is None else together.forwards([layer for layer, _ in group])
    idle: set[nn.Module] = set()
    for module in model.modules():
        affine = None if module in idle else _affine(module)
        if affine is not None:
            idle.update(module.modules())
            own = None if module in forwards else _packed(affine, rows)
            forwards |= {} if own is None else {module: own}
    with other_forwards(forwards, forwards.get):
        yield


def packs_adapters(model: nn.Module) -> bool:
    """Return whether the copies that `packed_linears` makes here have every adapter of a model in them."""
    adapted = [module for module in model.modules() if hasattr(module, "base_layer")]
    affines = [_affine(module) for module in adapted]
    return all(affine is not None and _is_copied(affine) for affine in affines)


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


def _packed(affine: Affine, rows: int) -> Callable[[Tensor], Tensor] | None:
    """Return a layer's forward on a copy of its weight, None where a copy gains nothing."""
    if not _is_copied(affine):
        return None
    dtype = _compute_dtype(affine)
    bias = None if affine.bias is None else affine.bias.detach().to(dtype)
    multiply = product_with(affine.merged().to(dtype), bias, rows)
    return lambda x: multiply(cast_once(x, dtype))


def _is_copied(affine: Affine) -> bool:
    dtype = _compute_dtype(affine)
    return dtype != affine.weight.dtype or _is_laid_out(affine.weight.device.type, dtype)


def _affine(module: Any) -> Affine | None:
    """Return what a layer computes, a merged adapter around it or not; None where nothing can stand in for it."""
    if "forward" in vars(module):
        return None
    is_merged = getattr(module, "merged", False) and hasattr(module, "base_layer") and not module.disable_adapters
    return _affine(module.base_layer) if is_merged else affine_of(module)


def _compute_dtype(affine: Affine) -> torch.dtype:
    return autocast_dtype(affine.weight) or affine.weight.dtype


def _groups(model: nn.Module) -> Iterator[list[tuple[nn.Module, Affine]]]:
    """Yield the layers that read the same input."""
    for module in model.modules():
        for names in READ_ALIKE:
            layers = [child for name in names if isinstance(child := getattr(module, name, None), nn.Module)]
            affines = [affine for layer in layers if (affine := _affine(layer)) is not None]
            if len(affines) == len(names):
                yield list(zip(layers, affines, strict=True))


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
    def of(cls, layers: Sequence[Affine], rows: int) -> "_Together | None":
        """Return the layers as one, None where they do not fit together, or where it gains nothing."""
        first, dtype = layers[0].weight, _compute_dtype(layers[0])
        kinds = {(one.weight.shape[1], one.bias is None, one.weight.device, _compute_dtype(one)) for one in layers}
        if len(kinds) > 1 or not _is_laid_out(first.device.type, dtype):
            return None
        weight = torch.cat([one.merged().to(dtype) for one in layers])
        biases = [one.bias.detach().to(dtype) for one in layers if one.bias is not None]
        return cls(weight, torch.cat(biases) if biases else None, [len(one.weight) for one in layers], rows)

    def forwards(self, layers: Sequence[nn.Module]) -> dict[nn.Module, Callable[[Tensor], Tensor]]:
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
