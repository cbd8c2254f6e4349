"""The beginning that all rows of a batch share: computed once, and kept for the next batch.

A chat template that begins with a system turn begins every row alike, and so does one prompt with many completions. In
a decoder no token sees what follows it, so keys and values of such a beginning are the same in every row.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

WORTH_TOKENS = 64
"""Tokens that have to be saved in a batch: about what the one pass more costs that a new beginning takes."""
SHORTEST = 16
"""Tokens of a beginning: attention to a shorter one costs more than it saves."""


class _Beginning(NamedTuple):
    ids: list[int]
    layers: list[tuple[Tensor, Tensor]]


class SharedPrefix:
    """Keys and values of the beginnings of texts. Used by one thread at a time.

    Args:
        model: a decoder with a head that reads a row's last token.
        pad_id: the token that does not count as the last one.
    """

    def __init__(self, model: Any, pad_id: int) -> None:
        self._model = model
        self._pad_id = pad_id
        # The one that every text begins with, if there is one, and the one that was shared last.
        self._kept: list[_Beginning] = []
        self._num_permanent = 0

    def of(self, rows: Sequence[list[int]]) -> list[int]:
        """Return the beginning that these rows share, nothing where computing it once is not worth it."""
        # The token that a row's number is read off stays in the row.
        longest = min(self._num_read(row) for row in rows) - 1
        common = _common(rows)[: max(longest, 0)]
        fitting = [one.ids for one in self._kept if common[: len(one.ids)] == one.ids]
        kept = max(fitting, key=len, default=[])
        saved = len(rows) * (len(common) - len(kept)) - len(common)
        return common if len(common) >= SHORTEST and saved >= WORTH_TOKENS else kept

    @property
    def num_kept(self) -> int:
        """Tokens of the beginning that is kept whatever is shared besides."""
        return len(self._kept[0].ids) if self._num_permanent else 0

    def keep(self, rows: Sequence[list[int]]) -> None:
        """Have the beginning of these rows ready from the first batch on, whatever is shared besides."""
        if len(common := _common(rows)) >= SHORTEST:
            self.cache(common, len(rows))
            self._num_permanent = 1

    def cache(self, ids: list[int], num_rows: int) -> DynamicCache:
        """Return keys and values of a beginning, for so many rows.

        Raises:
            TypeError: the model keeps something else than the keys and values of every token.
        """
        known = next((one for one in self._kept if one.ids == ids), None)
        if known is None:
            given = torch.tensor([ids], device=self._model.device)
            past = self._model.base_model(input_ids=given, use_cache=True).past_key_values
            if not isinstance(past, DynamicCache) or any(type(layer) is not DynamicLayer for layer in past.layers):
                raise TypeError("this model does not keep keys and values of every token")
            known = _Beginning(ids, [(layer.keys, layer.values) for layer in past.layers])
            self._kept[self._num_permanent :] = [known]
        return DynamicCache([(k.expand(num_rows, -1, -1, -1), v.expand(num_rows, -1, -1, -1)) for k, v in known.layers])

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
