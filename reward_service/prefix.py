"""The beginning that all rows of a batch share: computed once, and kept for the next batch.

A chat template that begins with a system turn begins every row alike, and so does one prompt with many completions. In
a decoder no token sees what follows it, so keys and values of such a beginning are the same in every row.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

WORTH_TOKENS = 64
"""Tokens that have to be saved in a batch: about what the one pass more costs that a new beginning takes."""
SHORTEST = 16
"""Tokens of a beginning: attention to a shorter one costs more than it saves."""


class SharedPrefix:
    """Keys and values of the beginning that was shared last. Used by one thread at a time.

    Args:
        model: a decoder with a head that reads a row's last token.
        pad_id: the token that does not count as the last one.
    """

    def __init__(self, model: Any, pad_id: int) -> None:
        self._model = model
        self._pad_id = pad_id
        self._ids: list[int] = []
        self._layers: list[tuple[Tensor, Tensor]] = []

    def of(self, rows: Sequence[list[int]]) -> list[int]:
        """Return the beginning that these rows share, nothing where computing it once is not worth it."""
        # The token that a row's number is read off stays in the row.
        longest = min(self._num_read(row) for row in rows) - 1
        common = _common(rows)[: max(longest, 0)]
        kept = self._ids if common[: len(self._ids)] == self._ids else []
        if kept and (len(rows) == 1 or len(common) - len(kept) < WORTH_TOKENS):
            return kept
        is_worth_it = len(common) >= SHORTEST and (len(rows) - 1) * len(common) >= WORTH_TOKENS
        return common if is_worth_it else kept

    def keep(self, rows: Sequence[list[int]]) -> None:
        """Have the beginning of these rows ready for the first batch."""
        if len(common := _common(rows)) >= SHORTEST:
            self.cache(common, len(rows))

    def cache(self, ids: list[int], num_rows: int) -> DynamicCache:
        """Return keys and values of a beginning, for so many rows.

        Raises:
            TypeError: the model keeps something else than the keys and values of every token.
        """
        if ids != self._ids:
            given = torch.tensor([ids], device=self._model.device)
            past = self._model.base_model(input_ids=given, use_cache=True).past_key_values
            if not isinstance(past, DynamicCache) or any(type(layer) is not DynamicLayer for layer in past.layers):
                raise TypeError("this model does not keep keys and values of every token")
            self._layers = [(layer.keys, layer.values) for layer in past.layers]
            self._ids = ids
        return DynamicCache([(k.expand(num_rows, -1, -1, -1), v.expand(num_rows, -1, -1, -1)) for k, v in self._layers])

    def _num_read(self, row: Sequence[int]) -> int:
        end = len(row)
        while end and row[end - 1] == self._pad_id:
            end -= 1
        return end


def _common(rows: Sequence[list[int]]) -> list[int]:
    """Return what all rows begin with; of sorted rows the first and the last differ first."""
    first, last = min(rows), max(rows)
    length = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return first[:length]
