"""Linear layers with their weights laid out for many small products, for as long as generation lasts."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.lean_layers import cast_once, other_forwards

__all__ = ["packed_linears", "product_with"]


@contextmanager
def packed_linears(model: nn.Module, rows: int) -> Iterator[None]:
    """Let every plain linear layer compute from a copy of its weight, cast and laid out once instead of at each call.

    The weights themselves are not touched: the layers get another forward, and lose it again. The copy has the type
    that the layer would compute in here: that of autocast where it is on, else its own.

    Args:
        model: its layers of exactly the class `torch.nn.Linear` change; an adapter's are among them.
        rows: of the products to come, about.
    """
    linears = [module for module in model.modules() if type(module) is nn.Linear]
    with other_forwards(linears, lambda module: _packed(module, rows)):
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
    device = module.weight.device.type
    is_cast = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if is_cast else module.weight.dtype
    if not _is_laid_out(device, dtype) and (not is_cast or dtype == module.weight.dtype):
        return None
    bias = None if module.bias is None else module.bias.detach().to(dtype)
    multiply = product_with(module.weight.detach().to(dtype), bias, rows)
    return lambda x: multiply(cast_once(x, dtype))


def _is_laid_out(device: str, dtype: torch.dtype) -> bool:
    """Return whether torch has, for this processor, the operators that its compiler uses for constant weights."""
    if device != "cpu" or dtype != torch.bfloat16:
        return False
    operators = torch.ops.mkldnn
    named = ("_reorder_linear_weight", "_linear_pointwise", "_is_mkldnn_bf16_supported")
    has_all = torch.backends.mkldnn.is_available() and all(hasattr(operators, name) for name in named)
    return has_all and bool(operators._is_mkldnn_bf16_supported())
