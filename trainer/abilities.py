"""What is possible with a model, found out by asking it a few tokens once, not by knowing its name."""

from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from trainer.attention import can_replace
from trainer.batch import Sequences
from trainer.captured import forward_packed, head_of, innermost, is_compiled, names_of_forward, replaced_head
from trainer.head import LogitRule, token_logprobs
from trainer.packing import pack

__all__ = ["Abilities", "abilities", "fits_window"]

ATTENTION_COST = 3.0
"""What one operation of masked attention costs, in operations of a linear layer: an estimate.

It decides when packing pays, and changes no result.
"""


class Abilities(NamedTuple):
    """What a model can.

    rule: what follows its head; None where that is not known, and only the model's own logits will do.
    pair_cost: what a query-key pair costs, in units of what a token costs in the other layers; None where completions
        of a prompt cannot share a row exactly.
    is_arranged: whether attention can be computed by an arrangement, which costs no pair that is not needed.
    """

    rule: LogitRule | None
    pair_cost: float | None
    is_arranged: bool = False


_known: WeakKeyDictionary[nn.Module, Abilities] = WeakKeyDictionary()


@torch.no_grad()
def abilities(model: nn.Module) -> Abilities:
    """Return what is possible with a model, wrapped or not; the first time it is asked by small forward passes."""
    inner = innermost(model)
    if inner not in _known:
        was_training = model.training
        model.eval()
        try:
            rule = _logit_rule(model)
            _known[inner] = Abilities(None, None) if rule is None else _with_attention(model, rule)
        finally:
            model.train(was_training)
    return _known[inner]


def fits_window(model: nn.Module, sequences: Sequences) -> bool:
    """Return whether no sequence is longer than what the model's attention reaches back to."""
    config = innermost(model).config
    windows = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size", "window_size")]
    longest = int((sequences.prompt_mask_NP.sum(dim=1) + sequences.completion_mask_NT.sum(dim=1)).max())
    return all(longest <= window for window in windows if isinstance(window, int))


def _logit_rule(model: nn.Module) -> LogitRule | None:
    """Return what a model does with its head's output, from what it makes of known numbers."""
    inner = innermost(model)
    head = head_of(inner)
    # Of a quantized, adapted or patched head nothing is known. FSDP2 gives a linear layer another class.
    is_linear = isinstance(head, nn.Linear) and type(head).forward is nn.Linear.forward
    if is_compiled(model) or not is_linear or "forward" in vars(head):
        return None
    given_V = torch.linspace(-60, 60, head.out_features, device=head.weight.device)
    seen: list[bool] = []

    def known_numbers(hidden: Tensor) -> Tensor:
        is_plain = type(head.weight) in (nn.Parameter, Tensor)
        has_shapes = hidden.shape == (1, 2, head.in_features) and head.weight.shape == (len(given_V), head.in_features)
        seen.append(is_plain and has_shapes)
        return given_V.expand(1, 2, -1)

    arguments = {"use_cache": False} if "use_cache" in names_of_forward(inner) else {}
    with replaced_head(inner, known_numbers):
        ids = torch.tensor([[0, min(1, head.out_features - 1)]], device=given_V.device)
        logits = model(input_ids=ids, **arguments).logits
    if seen != [True] or logits.shape != (1, 2, len(given_V)):
        return None
    cap = getattr(inner.config, "final_logit_softcapping", None)
    rule = LogitRule(cap=float(cap)) if cap else LogitRule(scale=float(logits[0, 0, -1]) / 60)
    return rule if torch.allclose(logits.float(), rule.apply(given_V).expand(1, 2, -1), rtol=1e-5, atol=1e-5) else None


def _with_attention(model: nn.Module, rule: LogitRule) -> Abilities:
    """Return how a model's attention lets completions share a prompt."""
    inner = innermost(model)
    width = getattr(inner.config, "hidden_size", None)
    is_masked = getattr(inner.config, "_attn_implementation", None) in ("sdpa", "eager")
    if not (is_masked and isinstance(width, int) and {"position_ids", "attention_mask"} <= names_of_forward(inner)):
        return Abilities(rule, None)
    # A layer has about 12 * width**2 weights, so a token takes 24 * width**2 operations in it, a pair 4 * width.
    pair_cost = ATTENTION_COST / (6 * width) if _is_exact(model, rule, is_arranged=False) else None
    return Abilities(rule, pair_cost, can_replace(inner) and _is_exact(model, rule, is_arranged=True))


def _is_exact(model: nn.Module, rule: LogitRule, is_arranged: bool) -> bool:
    """Return whether a completion's log-probabilities do not depend on whether it has a row to itself."""
    inner = innermost(model)

    def ask(first: Tensor, rows: list[list[int]], is_arranged: bool) -> Tensor:
        completions = torch.stack([first, second])
        ones = torch.ones(2, 5, dtype=torch.bool, device=ids.device)
        sequences = Sequences(ids[:5].expand(2, -1), ones, completions, torch.ones_like(completions).bool())
        packed = pack(sequences, rows, is_arranged)
        found = forward_packed(model, packed, lambda hidden, head: token_logprobs(hidden, head, packed.target_M, rule))
        return found[packed.sequence_M == 1]

    ids = (torch.arange(23, device=head_of(inner).weight.device) * 7919 + 1) % head_of(inner).out_features
    one, second, other = ids[5:].split(6)
    apart = ask(one, [[0], [1]], False)
    beside_one, beside_other = ask(one, [[0, 1]], is_arranged), ask(other, [[0, 1]], is_arranged)
    tolerance = 2e-4 if _computes_in_float32(inner) else 0.5  # tokens this unlikely have logits of a coarse grid
    # A neighbour's tokens must not matter at all: masked attention multiplies them by exactly 0.
    return torch.equal(beside_one, beside_other) and torch.allclose(apart, beside_one, rtol=0, atol=tolerance)


def _computes_in_float32(inner: nn.Module) -> bool:
    weight = head_of(inner).weight
    return weight.dtype == torch.float32 and not torch.is_autocast_enabled(weight.device.type)
