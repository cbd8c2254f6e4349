"""Layers that keep less for the backward pass, and read and write less memory, for the same numbers.

A transformer's block keeps far more than its matrix products need: in mixed precision every linear layer has a copy of
its input of its own, a norm keeps what it can compute again, and so does a gated MLP. For the length of a forward pass
such layers get another forward. Which layers qualify is found out by asking them, not by knowing their model.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.adapted_linear import Affine, affine_of, apply_affine, is_lora, is_watched
from trainer.attention import is_plain_pass

__all__ = ["autocast_dtype", "cast_once", "lean_layers", "other_forwards"]

Forward = Callable[[Tensor], Tensor]
_known: WeakKeyDictionary[nn.Module, list[nn.Module]] = WeakKeyDictionary()


@contextmanager
def lean_layers(inner: nn.Module) -> Iterator[None]:
    """Let a model's layers compute here, where they can; its parameters are not touched, and outputs stay bit for bit.

    Args:
        inner: the model, without a wrapper.
    """
    with other_forwards(_lean(inner) if is_plain_pass(inner) else [], _forward_of):
        yield


@contextmanager
def other_forwards(modules: Iterable[nn.Module], forward_of: Callable[[Any], Forward | None]) -> Iterator[None]:
    """Let another forward stand in for a module's own, where `forward_of` has one and nobody else did so before."""
    changed: list[nn.Module] = []
    try:
        for module in modules:
            forward = None if "forward" in vars(module) else forward_of(module)
            if forward is not None:
                module.forward = forward  # type: ignore[method-assign]
                changed.append(module)
        yield
    finally:
        for module in changed:
            del module.forward


def cast_once(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return x in another type: the same tensor each time, while x lives and is not changed in place."""
    if x.dtype == dtype:
        return x
    version = None if x.is_inference() else x._version
    known: tuple[Tensor, int | None, bool] | None = getattr(x, "known_cast", None)
    if known is None or known[0].dtype != dtype or known[1:] != (version, torch.is_grad_enabled()):
        known = (x.to(dtype), version, torch.is_grad_enabled())
        x.known_cast = known  # type: ignore[attr-defined]
    return known[0]


def _lean(inner: nn.Module) -> list[nn.Module]:
    """Return the modules with another forward; norms and MLPs are asked the first time whether it is the same."""
    if inner not in _known:
        linears = [module for module in inner.modules() if type(module) is nn.Linear or is_lora(module)]
        others = [module for module in inner.modules() if _is_norm(module) or _is_gated(module)]
        _known[inner] = [*linears, *(module for module in others if _is_same(module))]
    return _known[inner]


def _forward_of(module: nn.Module) -> Forward | None:
    """Return what stands in for a module's forward as things are now; None where nothing does."""
    if type(module) is nn.Linear:
        dtype = autocast_dtype(module.weight)
        # What is cast already is cast no more.
        return None if dtype is None else lambda x: F.linear(cast_once(x, dtype), module.weight, module.bias)
    if is_lora(module):
        return _adapted(module)
    if _is_norm(module):
        return lambda x: _Normalize.apply(x, module.weight, _epsilon(module))
    if _is_gated(module):
        return _gated(module)
    return None


def autocast_dtype(like: Tensor) -> torch.dtype | None:
    """Return the type of mixed precision here, on a tensor's device; None where it is off."""
    kind = like.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None


def _is_norm(module: nn.Module) -> bool:
    """Return whether a module looks like a root mean square norm: one weight, of the last dimension, and an epsilon."""
    parameters = dict(module.named_parameters())
    return (
        type(module).__name__.endswith("RMSNorm")
        and list(parameters) == ["weight"]
        and type(module.weight) is nn.Parameter
        and module.weight.dim() == 1
        and isinstance(_epsilon(module), float)
    )


def _epsilon(module: nn.Module) -> Any:
    return getattr(module, "variance_epsilon", getattr(module, "eps", None))


def _is_gated(module: nn.Module) -> bool:
    """Return whether a module looks like down(act(gate(x)) * up(x))."""
    names = {name for name, _ in module.named_children()}
    return {"gate_proj", "up_proj", "down_proj"} <= names and callable(getattr(module, "act_fn", None))


def _compute_dtype(affine: Affine) -> torch.dtype | None:
    """Return the one type that a layer computes in; None where it has several."""
    types = {tensor.dtype for tensor in affine.tensors if tensor is not None}
    return autocast_dtype(affine.weight) or (types.pop() if len(types) == 1 else None)


def _is_same(module: nn.Module) -> bool:
    """Return whether a module makes the same of some numbers as what would stand in for it."""
    forward = _forward_of(module)
    weight = module.weight if _is_norm(module) else getattr(module.gate_proj, "weight", None)
    if forward is None or not isinstance(weight, Tensor) or 0 in weight.shape:
        return False
    x = torch.linspace(-3, 3, 2 * weight.shape[-1], device=weight.device, dtype=weight.dtype).sin().view(1, 2, -1)
    with torch.no_grad():
        return all(torch.equal(module(scale * x), forward(scale * x)) for scale in (1.0, 1e-3))


class _Normalize(torch.autograd.Function):
    """weight * x / root mean square(x), in float32 until it is multiplied by the weight; keeps x, and one number a row.

    Source: the RMSNorm of Llama and of the models that follow it.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        wide = x.float()
        scale = wide.pow(2).mean(-1, keepdim=True).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (wide * scale).to(x.dtype) * weight

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight, scale = ctx.saved_tensors
        wide = gradient.float()
        normalized = x.float() * scale
        product = wide * normalized
        to_x = to_weight = None
        if ctx.needs_input_grad[1]:
            to_weight = product.flatten(0, -2).sum(dim=0).to(weight.dtype)
        if ctx.needs_input_grad[0]:
            mean = (product @ weight.float()).div_(x.shape[-1]).unsqueeze(-1)
            to_x = (wide * weight).sub_(normalized.mul_(mean)).mul_(scale).to(x.dtype)
        return to_x, to_weight, None


def _adapted(module: Any) -> Forward | None:
    affine = affine_of(module)
    if affine is None or affine.lora_A is None:
        return None

    def forward(x: Tensor) -> Tensor:
        # Asked here, not before: mixed precision may begin with the model's forward.
        dtype = _compute_dtype(affine)
        found: Tensor = (
            type(module).forward(module, x) if dtype is None else apply_affine(cast_once(x, dtype), affine.to(dtype))
        )
        return found

    return forward


def _gated(module: Any) -> Forward | None:
    affine = None if is_watched(module.down_proj) else affine_of(module.down_proj)
    if affine is None:
        return None

    def forward(x: Tensor) -> Tensor:
        dtype = _compute_dtype(affine)
        found: Tensor
        if dtype is None:
            found = type(module).forward(module, x)
        else:
            # Cast here, with a gradient: what a function casts for itself, autocast would remember as a constant.
            cast = affine.to(dtype)
            gate, up = module.gate_proj(x), module.up_proj(x)
            found = _Gated.apply(gate, up, *cast.tensors, cast.scaling, module.act_fn)
        return found

    return forward


class _Gated(torch.autograd.Function):
    """The layer behind act(gate) * up; that product is computed again in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, gate: Tensor, up: Tensor, weight: Tensor, bias: Tensor | None, lora_A: Tensor | None,
        lora_B: Tensor | None, scaling: float, act: Callable[[Tensor], Tensor],
    ) -> Tensor:  # fmt: skip
        ctx.act, ctx.scaling = act, scaling
        found, low = Affine(weight, bias, lora_A, lora_B, scaling).output(act(gate) * up)
        ctx.save_for_backward(gate, up, low, weight, bias, lora_A, lora_B)
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        gate, up, low, *tensors = ctx.saved_tensors
        affine, needed = Affine(*tensors, ctx.scaling), ctx.needs_input_grad[2:6]
        with torch.enable_grad():
            gate = gate.detach().requires_grad_()
            activated = ctx.act(gate)
        active = activated.detach()
        by_product, by_low = affine.by_input(gradient)
        product = active * up if needed[0] or needed[2] else None
        to_tensors = affine.by_tensors(gradient, product, low, by_low, needed)
        del product
        (to_gate,) = torch.autograd.grad(activated, gate, by_product * up)
        return to_gate, by_product.mul_(active), *to_tensors, None, None
