"""The head of a language model: from hidden states to log-probabilities of tokens, a chunk of logits at a time.

No tensor of tokens x vocabulary outlives its chunk: the backward pass computes the logits again, or, where the factor
of each log-probability is known beforehand, the gradient is formed in the forward pass while the logits exist. Who asks
for it has the gradient kept, in the head's dtype, until the factors are known.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trainer.lean_layers import autocast_dtype
from trainer.packed_linear import product_with

__all__ = ["LogitRule", "token_logprobs", "weighted_logprobs"]

MOST_LOGITS = 2**25
"""Logits whose gradient exists at once, in the head's dtype: 64 MiB in bfloat16."""

MOST_KEPT_LOGITS = 2**28
"""Logits whose gradient is kept from the forward pass to the backward pass: 512 MiB in bfloat16."""

MOST_CACHED_LOGITS = 2**20
"""Logits that exist at once in float32 on a CPU: 4 MiB, which its cache holds, and which is never fresh memory."""

MOST_MULTIPLIED_LOGITS = 2**23
"""Logits that one product makes on a CPU; they go into float32 a few at a time."""

WORTH_ROWS = 2048
"""Rows of a product that are worth laying out the head's weight another way."""


@dataclass(frozen=True)
class LogitRule:
    """What a model does with its head's output x: scale * x, or cap * tanh(x / cap).

    Cohere and Granite scale; Gemma caps. The identity is a scale of 1.
    """

    scale: float = 1.0
    cap: float | None = None

    def apply(self, raw: Tensor) -> Tensor:
        """Return the logits in the dtype that the head computes in, by the operations of the models that do so."""
        if self.cap is not None:
            return torch.tanh(raw / self.cap) * self.cap
        return raw if self.scale == 1.0 else raw * self.scale

    def derivative_(self, gradient: Tensor, logits: Tensor) -> Tensor:
        """Turn the gradient of the logits into the gradient of the head's output, in place, and return it."""
        if self.cap is not None:
            return gradient.mul_(1 - (logits.float() / self.cap).square())
        return gradient if self.scale == 1.0 else gradient.mul_(self.scale)


def token_logprobs(hidden_MH: Tensor, head: nn.Linear, target_M: Tensor, rule: LogitRule, keep: bool = False) -> Tensor:
    """Return log softmax(logits)[token] of each token, nats, float32, with gradient.

    Args:
        hidden_MH: the hidden state that predicts each token.
        head: from hidden states to the vocabulary.
        target_M: the tokens.
        rule: what follows the head.
        keep: whether to form the gradient now and keep it, where it is not too large, for a backward pass to come.
    """
    is_kept = keep and len(target_M) * len(head.weight) <= MOST_KEPT_LOGITS
    dtype = _compute_dtype(hidden_MH, head)
    return _TokenLogprobs.apply(hidden_MH, head.weight, head.bias, target_M, rule, dtype, is_kept)


def weighted_logprobs(
    hidden_MH: Tensor, head: nn.Linear, target_M: Tensor, rule: LogitRule, factor_M: Tensor
) -> Tensor:
    """Return sum_m factor_m * log softmax(logits_m)[token_m], a scalar whose gradient is ready when it is returned.

    Args:
        hidden_MH: the hidden state that predicts each token.
        head: from hidden states to the vocabulary.
        target_M: the tokens.
        rule: what follows the head.
        factor_M: constants, float32.
    """
    return _WeightedLogprobs.apply(
        hidden_MH, head.weight, head.bias, target_M, rule, _compute_dtype(hidden_MH, head), factor_M
    )


def _compute_dtype(hidden: Tensor, head: nn.Linear) -> torch.dtype:
    """Return the dtype that the head would compute in, were it called here."""
    return autocast_dtype(hidden) or head.weight.dtype


def _no_autocast(tensor: Tensor) -> AbstractContextManager[Any]:
    kind = tensor.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def _chunks(num_tokens: int, vocabulary: int, most_logits: int) -> list[slice]:
    size = max(1, most_logits // vocabulary)
    return [slice(start, min(start + size, num_tokens)) for start in range(0, num_tokens, size)]


def _log_probabilities(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return each token's log-probability, and softmax as numerators, in place of the logits, and their sums."""
    largest = logits.amax(dim=1, keepdim=True)
    picked = logits.gather(1, target[:, None]) - largest
    exponentials = logits.sub_(largest).exp_()
    sums = exponentials.sum(dim=1, keepdim=True)
    return (picked - sums.log()).squeeze(1), exponentials, sums


def _logit_gradient(exponentials: Tensor, sums: Tensor, target: Tensor, factor: Tensor) -> Tensor:
    """Return d sum(factor * logprob) / d logits = factor * (onehot - softmax), in place of the exponentials."""
    gradient = exponentials.mul_(-factor[:, None] / sums)
    return gradient.scatter_add_(1, target[:, None], factor[:, None])


@dataclass
class _Gradients:
    """Gradients of hidden states, weight and bias, summed over chunks in float32; None where not wanted."""

    hidden: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    wants_weight: bool

    @classmethod
    def zeros(cls, needed: tuple[bool, ...], hidden: Tensor, weight: Tensor, bias: Tensor | None) -> "_Gradients":
        return cls(
            torch.empty_like(hidden) if needed[0] else None,
            # The first chunk's is as good as a sum that begins at zero, and there is nothing to fill.
            torch.zeros_like(weight, dtype=torch.float32) if needed[1] and not len(hidden) else None,
            torch.zeros_like(bias, dtype=torch.float32) if needed[2] and bias is not None else None,
            needed[1],
        )

    def add(self, part: slice, gradient: Tensor, hidden: Tensor, weight: Tensor, factor: Tensor | None = None) -> None:
        """Add one chunk: `gradient` of the head's output, the chunk's hidden states, the weight.

        With a factor for each token, the gradient is yet to be multiplied by it; the narrower hidden states are so.
        """
        if self.hidden is not None:
            is_large = len(gradient) >= WORTH_ROWS
            by_hidden = product_with(weight.t(), None, len(gradient))(gradient) if is_large else gradient @ weight
            self.hidden[part] = by_hidden if factor is None else by_hidden * factor[:, None]
        if self.wants_weight:
            self._add_to_weight(
                gradient.t() @ (hidden if factor is None else (hidden * factor[:, None]).to(hidden.dtype))
            )
        if self.bias is not None:
            self.bias += gradient.sum(dim=0, dtype=torch.float32) if factor is None else factor @ gradient.float()

    def _add_to_weight(self, found: Tensor) -> None:
        if self.weight is None:
            self.weight = found.float()
            return
        for rows in _chunks(*self.weight.shape, MOST_CACHED_LOGITS):
            self.weight[rows] += found[rows].float()  # in one piece, mixed types are added five times as slowly

    def scaled(self, factor: Tensor | float, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the three times a scalar, those of weight and bias in the weight's dtype."""
        for one in (self.hidden, self.weight, self.bias):
            if one is not None and factor != 1:
                one.mul_(factor)
        weight, bias = (None if one is None else one.to(dtype) for one in (self.weight, self.bias))
        return self.hidden, weight, bias


def _walk(
    tensors: tuple[Tensor, Tensor, Tensor | None],
    target_M: Tensor,
    rule: LogitRule,
    dtype: torch.dtype,
    factor_of: Callable[[slice], Tensor],
    gradients: _Gradients,
) -> Tensor:
    """Return the log-probabilities, and add to the gradients while each chunk's logits exist.

    Chunks within chunks: the weight's gradient is as large as the weight, so it is added to for many tokens at once.
    """
    hidden_MH, weight, bias = tensors
    weight = weight.to(dtype)
    multiply = _multiply(weight, bias)
    logprobs_M = torch.empty(len(target_M), dtype=torch.float32, device=target_M.device)
    for part in _chunks(len(target_M), weight.shape[0], MOST_LOGITS):
        hidden, target = hidden_MH[part].to(dtype), target_M[part]
        logprobs_M[part], gradient = _logprobs_and_gradient(
            hidden, multiply, len(weight), target, rule, factor_of(part)
        )
        if gradient is not None:
            gradients.add(part, gradient, hidden, weight)
    return logprobs_M


def _multiply(weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    """Return the head as a function, for a chunk at a time."""
    rows = max(1, MOST_MULTIPLIED_LOGITS // len(weight))
    return product_with(weight, None if bias is None else bias.to(weight.dtype), rows)


def _logprobs_and_gradient(
    hidden_MH: Tensor, multiply: Callable[[Tensor], Tensor], vocabulary: int, target_M: Tensor, rule: LogitRule,
    factor_M: Tensor | None,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Return log-probabilities, and of their sum with these factors the gradient of the head's output, if wanted."""
    is_on_cpu = hidden_MH.device.type == "cpu"
    multiplied, cached = (MOST_MULTIPLIED_LOGITS, MOST_CACHED_LOGITS) if is_on_cpu else (MOST_LOGITS, MOST_LOGITS)
    logprobs_M = torch.empty(len(target_M), dtype=torch.float32, device=target_M.device)
    gradient_MV = None if factor_M is None else hidden_MH.new_empty(len(target_M), vocabulary)
    for some in _chunks(len(target_M), vocabulary, multiplied):
        logits_SV = rule.apply(multiply(hidden_MH[some]))
        for within in _chunks(len(logits_SV), vocabulary, cached):
            part = slice(some.start + within.start, some.start + within.stop)
            logits = logits_SV[within]
            float_logits = logits.to(torch.float32, copy=rule.cap is not None)  # a cap's derivative reads them again
            logprobs_M[part], exponentials, sums = _log_probabilities(float_logits, target_M[part])
            if gradient_MV is not None and factor_M is not None:
                gradient = _logit_gradient(exponentials, sums, target_M[part], factor_M[part])
                gradient_MV[part] = rule.derivative_(gradient, logits)
    return logprobs_M, gradient_MV


class _TokenLogprobs(torch.autograd.Function):
    """Log-probabilities; the backward pass computes the logits a second time, unless their gradient has been kept."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, rule: LogitRule,
        dtype: torch.dtype, keep: bool,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(hidden, weight, bias, target)
        ctx.rule, ctx.dtype = rule, dtype
        factor = torch.ones(len(target), dtype=torch.float32, device=target.device) if keep else None
        with _no_autocast(hidden):
            multiply = _multiply(weight.to(dtype), bias)
            logprobs, ctx.kept_MV = _logprobs_and_gradient(
                hidden.to(dtype), multiply, len(weight), target, rule, factor
            )
        return logprobs

    @staticmethod
    def backward(ctx: Any, gradient_M: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        hidden, weight, bias, target = ctx.saved_tensors
        gradients = _Gradients.zeros(ctx.needs_input_grad, hidden, weight, bias)
        with _no_autocast(hidden):
            if ctx.kept_MV is None:
                _walk((hidden, weight, bias), target, ctx.rule, ctx.dtype, lambda part: gradient_M[part], gradients)
            else:
                gradients.add(slice(None), ctx.kept_MV, hidden.to(ctx.dtype), weight.to(ctx.dtype), gradient_M)
        ctx.kept_MV = None
        return (*gradients.scaled(1.0, weight.dtype), None, None, None, None)


class _WeightedLogprobs(torch.autograd.Function):
    """The weighted sum of log-probabilities; its gradient is formed in the forward pass and scaled in the backward."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, rule: LogitRule,
        dtype: torch.dtype, factor: Tensor,
    ) -> Tensor:  # fmt: skip
        ctx.gradients = _Gradients.zeros(ctx.needs_input_grad, hidden, weight, bias)
        ctx.dtype = weight.dtype
        with _no_autocast(hidden):
            tensors = (hidden, weight, bias)
            logprobs = _walk(tensors, target, rule, dtype, lambda part: factor[part], ctx.gradients)
        return (factor * logprobs).sum()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        found = ctx.gradients.scaled(gradient, ctx.dtype)
        ctx.gradients = None  # a second pass through the same graph would scale them twice
        return (*found, None, None, None, None)
