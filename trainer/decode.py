"""Decoding with a model's own forward: each prompt is read once, what is finished leaves the batch."""

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache, GenerationMixin, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from trainer.attention import own_attention
from trainer.batch import Sequences

__all__ = ["RoomyLayer", "can_decode", "decode", "draw"]

BLOCK = 256  # tokens: a draw is made among blocks of the vocabulary, then among the tokens of one block
MOST_CACHED = 2**18  # numbers that are drawn from at once on a CPU: 1 MiB, which is never fresh memory


class RoomyLayer(DynamicLayer):
    """One layer's keys and values, with room for tokens to come: a token is written in place, and so is a row moved.

    Args:
        room: tokens that are made room for at once.
    """

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room
        self._all_keys: Tensor | None = None
        self._all_values: Tensor | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the states of new tokens behind the others, and return all; in the type that attention computes in."""
        device = key_states.device.type
        if torch.is_autocast_enabled(device):
            # Attention would cast them at every later token again, all of them.
            dtype = torch.get_autocast_dtype(device)
            key_states, value_states = key_states.to(dtype), value_states.to(dtype)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states, value_states
            return self.keys, self.values
        length = self.keys.shape[-2]
        new_length = length + key_states.shape[-2]
        if self._all_keys is None or new_length > self._all_keys.shape[-2]:
            self._make_room(1, max(self.room, key_states.shape[-2]))
        rows = self.keys.shape[0]
        self._all_keys[:rows, :, length:new_length] = key_states
        self._all_values[:rows, :, length:new_length] = value_states
        self._show(rows, new_length)
        return self.keys, self.values

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Hold each row `repeats` times, and room for what follows."""
        self._make_room(repeats, self.room)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Hold these rows only, in this order; rows that keep their place are not copied."""
        length = self.keys.shape[-2]
        moved = (indices != torch.arange(len(indices), device=indices.device)).nonzero().flatten()
        if len(moved):
            source = indices[moved]
            self._all_keys[moved, :, :length] = self.keys[source]
            self._all_values[moved, :, :length] = self.values[source]
        self._show(len(indices), length)

    def _make_room(self, repeats: int, room: int) -> None:
        self._all_keys = _with_room(self.keys, repeats, room)
        self._all_values = _with_room(self.values, repeats, room)
        self._show(self.keys.shape[0] * repeats, self.keys.shape[-2])

    def _show(self, rows: int, length: int) -> None:
        self.keys, self.values = (_shown(states[:rows], length) for states in (self._all_keys, self._all_values))


def _with_room(states: Tensor, repeats: int, room: int) -> Tensor:
    """Return each row of states `repeats` times, in a tensor that is longer by `room` tokens."""
    rows, heads, length, width = states.shape
    roomy = states.new_zeros(rows, repeats, heads, length + room, width)  # no NaN: it is multiplied by weights of 0
    roomy[:, :, :, :length] = states[:, None]
    return roomy.view(rows * repeats, heads, length + room, width)


def _shown(states: Tensor, length: int) -> Tensor:
    """Return the first tokens of the states, and with them a way back to all, for who can use the room behind them."""
    shown = states[:, :, :length]
    shown.with_room = states  # type: ignore[attr-defined]
    return shown


def can_decode(model: PreTrainedModel) -> bool:
    """Return whether a model generates in the ordinary way: keys and values in a cache, prepared as all others are.

    Recurrent states, an encoder, or a way of its own to prepare inputs: such a model generates as it knows best.
    """
    kind = type(model)
    is_ordinary = (
        getattr(kind, "prepare_inputs_for_generation", None) is GenerationMixin.prepare_inputs_for_generation
        and kind.generate is GenerationMixin.generate
        and not model.config.is_encoder_decoder
        and {"past_key_values", "attention_mask"} <= _accepted(model)
    )
    known = (DynamicLayer, DynamicSlidingWindowLayer)
    return is_ordinary and all(type(layer) in known for layer in DynamicCache(config=model.config).layers)


def decode(
    model: PreTrainedModel,
    prompts: Sequences,
    k: int,
    max_new_tokens: int,
    eos_ids: Sequence[int],
    temperature: float,
) -> Iterator[list[tuple[int, list[int]]]]:
    """Yield what has been finished, as soon as it is: pairs of a row's number and its tokens.

    Args:
        model: without a wrapper, in evaluation mode.
        prompts: the prompts, padded on the left; their completions are not looked at.
        k: completions of each prompt; rows i * k to (i + 1) * k are those of prompt i.
        max_new_tokens: most tokens of one completion.
        eos_ids: tokens that end a completion, and are part of it.
        temperature: of the sampling; 0 takes the likeliest token.
    """
    device = prompts.prompt_ids_NP.device
    cache = _cache(model, min(max_new_tokens, 64))
    mask = prompts.prompt_mask_NP.long()
    logits = _next_logits(model, cache, prompts.prompt_ids_NP, mask, (mask.cumsum(dim=1) - 1).clamp(min=0))
    cache.batch_repeat_interleave(k)
    logits, mask = logits.repeat_interleave(k, dim=0), mask.repeat_interleave(k, dim=0)
    positions = mask.sum(dim=1, keepdim=True)
    rows = torch.arange(len(mask), device=device)
    is_done = torch.zeros_like(rows, dtype=torch.bool)
    stops = torch.tensor(list(eos_ids), dtype=torch.long, device=device)
    tokens_NT = torch.zeros(len(mask), max_new_tokens, dtype=torch.long, device=device)
    for t in range(max_new_tokens):
        tokens = draw(logits, temperature)
        tokens_NT[rows, t] = tokens
        ends = ~is_done if t + 1 == max_new_tokens else torch.isin(tokens, stops) & ~is_done
        if ends.any():
            ended = rows[ends]
            yield list(zip(ended.tolist(), tokens_NT[ended, : t + 1].tolist(), strict=True))
            is_done |= ends
            if is_done.all():
                return
            if is_done.sum() * 16 >= len(rows):  # moving rows costs less than carrying them
                kept = _without(is_done)
                cache.batch_select_indices(kept)
                rows, tokens, mask, positions = rows[kept], tokens[kept], mask[kept], positions[kept]
                is_done = torch.zeros_like(rows, dtype=torch.bool)
        mask = functional.pad(mask, (0, 1), value=1)
        logits = _next_logits(model, cache, tokens[:, None], mask, positions)
        positions = positions + 1


def draw(logits_NV: Tensor, temperature: float) -> Tensor:
    """Return one token per row from softmax(logits / temperature), the likeliest where the temperature is 0.

    p(token) = p(block) p(token | block): a random number per block and per token of one block, instead of one per
    token of the vocabulary.
    """
    if temperature == 0:
        return logits_NV.float().argmax(dim=-1)
    rows = MOST_CACHED // logits_NV.shape[1] if logits_NV.device.type == "cpu" else len(logits_NV)
    return torch.cat([_drawn(some, temperature) for some in logits_NV.split(max(1, rows))])


def _drawn(logits_NV: Tensor, temperature: float) -> Tensor:
    """Return one token per row; what is drawn from need not add up to 1, so no probability is computed."""
    weights = logits_NV.to(torch.float32, copy=True)
    weights.sub_(weights.amax(dim=-1, keepdim=True))
    if temperature != 1:
        weights.div_(temperature)
    weights.exp_()
    num_tokens = weights.shape[-1]
    if num_tokens <= BLOCK:
        return torch.multinomial(weights, 1).squeeze(1)
    if num_tokens % BLOCK:
        weights = functional.pad(weights, (0, BLOCK - num_tokens % BLOCK))
    blocks = weights.unflatten(1, (-1, BLOCK))
    chosen = torch.multinomial(blocks.sum(dim=-1), 1).squeeze(1)
    within = torch.multinomial(blocks[torch.arange(len(blocks), device=blocks.device), chosen], 1).squeeze(1)
    return chosen * BLOCK + within


def _cache(model: PreTrainedModel, room: int) -> DynamicCache:
    """Return the model's own kind of cache, its layers that grow without bound replaced by roomy ones."""
    cache = DynamicCache(config=model.config)
    cache.layers = [RoomyLayer(room) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def _next_logits(
    model: PreTrainedModel, cache: DynamicCache, ids_NT: Tensor, mask: Tensor, positions_NT: Tensor
) -> Tensor:
    """Return the logits behind the last token of each row, shape NV, and add the tokens to the cache."""
    arguments = {
        "input_ids": ids_NT,
        "attention_mask": mask,
        "position_ids": positions_NT,
        "past_key_values": cache,
        "use_cache": True,
        "logits_to_keep": 1,
    }
    accepted = _accepted(model)
    with own_attention(model):
        logits: Tensor = model(**{name: value for name, value in arguments.items() if name in accepted}).logits[:, -1]
    return logits


def _accepted(model: PreTrainedModel) -> set[str]:
    return set(inspect.signature(type(model).forward).parameters)


def _without(is_done: Tensor) -> Tensor:
    """Return the rows that stay, as their new order: those from the end fill the gaps, all others keep their place.

    >>> _without(torch.tensor([False, True, False, False, True, False])).tolist()
    [0, 5, 2, 3]
    """
    stays = (~is_done).nonzero().flatten()
    num_rows = len(stays)
    order = torch.arange(num_rows, device=is_done.device)
    order[is_done[:num_rows]] = stays[stays >= num_rows]
    return order
