"""A linear layer and the LoRA adapter beside it as one function, which keeps its input and nothing else of that size.

PEFT's layer casts its input up to the adapter's type, which mixed precision casts down again, and keeps both; it keeps
the adapter's output too, goes over it to scale it and over the sum, and back again with gradients.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Affine", "affine_of", "apply_affine", "is_lora", "is_watched"]


@dataclass(frozen=True)
class Affine:
    """x -> x W^T + b + scaling * (x A^T) B^T, the last where there is an adapter.

    Args:
        weight: W, outputs x inputs.
        bias: b, one number per output.
        lora_A: rank x inputs.
        lora_B: outputs x rank.
        scaling: of the adapter.

    Source: LoRA, arXiv 2106.09685, equation 3.
    """

    weight: Tensor
    bias: Tensor | None
    lora_A: Tensor | None = None
    lora_B: Tensor | None = None
    scaling: float = 1.0

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """W, b, A and B."""
        return self.weight, self.bias, self.lora_A, self.lora_B

    def to(self, dtype: torch.dtype) -> "Affine":
        """Return the same in another type, with gradient."""
        cast = (None if tensor is None else tensor.to(dtype) for tensor in self.tensors)
        return Affine(*cast, self.scaling)  # type: ignore[arg-type]

    @torch.no_grad()
    def merged(self) -> Tensor:
        """Return W + scaling * B A, in the type of W, a tensor of its own where there is an adapter."""
        if self.lora_A is None or self.lora_B is None:
            return self.weight.detach()
        with torch.autocast(self.weight.device.type, enabled=False):
            product = self.lora_B.float() @ self.lora_A.float()
            return product.mul_(self.scaling).add_(self.weight).to(self.weight.dtype)

    def output(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the output, rounded where PEFT's layer rounds, and x A^T."""
        found = F.linear(x, self.weight, self.bias)
        if self.lora_A is None or self.lora_B is None:
            return found, None
        low = F.linear(x, self.lora_A)
        added = F.linear(low, self.lora_B)
        is_exact = math.frexp(self.scaling)[0] == 0.5  # by a power of two nothing is rounded
        return (found.add_(added, alpha=self.scaling) if is_exact else found.add_(added.mul_(self.scaling))), low

    def by_input(self, gradient: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the gradient of the input, from that of the output, and the gradient of x A^T."""
        found = gradient @ self.weight
        if self.lora_A is None or self.lora_B is None:
            return found, None
        by_low = (gradient @ self.lora_B).mul_(self.scaling)
        found.flatten(0, -2).addmm_(by_low.flatten(0, -2), self.lora_A)
        return found, by_low

    def by_tensors(
        self,
        gradient: Tensor,
        x: Tensor | None,
        low: Tensor | None,
        by_low: Tensor | None,
        needed: tuple[bool, ...],
    ) -> tuple[Tensor | None, ...]:
        """Return the gradients of W, b, A and B, those that are needed.

        Args:
            gradient: of the output.
            x: the input; None where neither W nor A is needed.
            low: x A^T.
            by_low: its gradient.
            needed: which of the four.
        """
        rows = gradient.flatten(0, -2)
        to_weight = to_bias = to_A = to_B = None
        if needed[0] and x is not None:
            to_weight = rows.t() @ x.flatten(0, -2)
        if needed[1] and self.bias is not None:
            to_bias = rows.sum(dim=0)
        if needed[2] and x is not None and by_low is not None:
            to_A = by_low.flatten(0, -2).t() @ x.flatten(0, -2)
        if needed[3] and low is not None:
            to_B = (rows.t() @ low.flatten(0, -2)).mul_(self.scaling)
        return to_weight, to_bias, to_A, to_B


def affine_of(module: Any) -> Affine | None:
    """Return what a layer computes as things are now: a linear layer, or PEFT's around one.

    None where it is of another kind, where its adapter is more than a product, or where somebody watches what is below.
    """
    if type(module) is nn.Linear:
        return Affine(module.weight, module.bias) if _is_whole(module) else None
    if not is_lora(module) or not _is_plain(module.base_layer):
        return None
    if module.merged and module.disable_adapters:  # its forward takes the adapter out of the weight first
        return None
    base, active = module.base_layer, [name for name in module.active_adapters if name in module.lora_A]
    if module.merged or module.disable_adapters or not active:
        return Affine(base.weight, base.bias)
    name, *others = active
    lora_A, lora_B, dropout = (getattr(module, kind)[name] for kind in ("lora_A", "lora_B", "lora_dropout"))
    drops = getattr(dropout, "p", 0.0) > 0 and dropout.training
    is_more = drops or others or name in module.lora_variant or lora_B.bias is not None
    if is_more or not (_is_plain(lora_A) and _is_plain(lora_B)):
        return None
    return Affine(base.weight, base.bias, lora_A.weight, lora_B.weight, module.scaling[name])


def apply_affine(x: Tensor, affine: Affine) -> Tensor:
    """Return the output of a layer with an adapter, with gradient; all of one type."""
    found: Tensor = _Adapted.apply(x, *affine.tensors, affine.scaling)
    return found


def is_lora(module: nn.Module) -> bool:
    """Return whether a module is PEFT's layer itself: not one derived from it, nor one for quantized weights."""
    kind = type(module)
    return kind.__module__ == "peft.tuners.lora.layer" and kind.__name__ == "Linear"


def is_watched(module: nn.Module) -> bool:
    """Return whether a module has hooks, which run when it is called."""
    return any(hooks for name, hooks in vars(module).items() if name.endswith("_hooks"))


def _is_plain(module: nn.Module) -> bool:
    return type(module) is nn.Linear and _is_whole(module) and not is_watched(module)


def _is_whole(module: nn.Linear) -> bool:
    """Return whether a layer's weight is all of it: not a shard, nor what stands for one."""
    return type(module.weight) is nn.Parameter and module.weight.shape == (module.out_features, module.in_features)


class _Adapted(torch.autograd.Function):
    """An `Affine` with an adapter."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, lora_A: Tensor, lora_B: Tensor, scaling: float
    ) -> Tensor:
        ctx.scaling = scaling
        found, low = Affine(weight, bias, lora_A, lora_B, scaling).output(x)
        ctx.save_for_backward(x, low, weight, bias, lora_A, lora_B)
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, low, *tensors = ctx.saved_tensors
        affine = Affine(*tensors, ctx.scaling)
        to_x, by_low = affine.by_input(gradient)
        return to_x, *affine.by_tensors(gradient, x, low, by_low, ctx.needs_input_grad[1:5]), None
