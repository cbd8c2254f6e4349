"""What the batcher asks of a reward model, and a batch's answers with each item alone in its failure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from reward_service.items import Conversation, Item, LabelScore, Text
from reward_service.ticket import Row
from wire.base import Message, Prompt
from wire.reward import Score, ScoreError, ScoreErrorType

# What a forward pass raises of its own: device faults, no memory, a shape, type or index that does not fit.
FORWARD_ERRORS = (
    RuntimeError,
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    AttributeError,
    ArithmeticError,
    MemoryError,
)


@dataclass(frozen=True)
class Encoded:
    """An item as the model reads it: its token ids, and how many there were before it was cut to fit."""

    ids: list[int]
    num_tokens: int

    @property
    def truncated(self) -> bool:
        """Whether the model reads only the end of it."""
        return len(self.ids) < self.num_tokens


class Scorer(Protocol):
    """A loaded reward model."""

    @property
    def num_kept(self) -> int | None:
        """Tokens that every text begins with and that are kept; None where rows share no beginning at all."""

    def encode(self, prompt: Prompt, completion: str) -> Encoded:
        """Return the item in the model's chat template; raises EncodingRefused. All three are called by one thread."""

    def encode_messages(self, messages: Sequence[Message]) -> Encoded:
        """Return a conversation in the model's chat template; raises EncodingRefused."""

    def encode_text(self, text: str, special_tokens: bool) -> Encoded:
        """Return a text as it is, without template; raises EncodingRefused."""

    def score(self, rows: Sequence[list[int]]) -> Sequence[float | list[float]]:
        """Return the model's number for each row, or its number for each label. Called by another thread."""

    def self_test(self) -> list[str]:
        """Return what is wrong with the model's answers; nothing where all is well."""


def encoded(scorer: Scorer, item: Item) -> Encoded:
    """Return an item of any kind as the model reads it; raises EncodingRefused."""
    if isinstance(item, Text):
        return scorer.encode_text(item.text, item.special_tokens)
    if isinstance(item, Conversation):
        return scorer.encode_messages(item.messages)
    return scorer.encode(item.prompt, item.completion)


def scored_apart(scorer: Scorer, rows: Sequence[Row]) -> list[Score]:
    """Return the answers of a batch; one that fails is halved until only the rows that break it have none."""
    try:
        numbers = scorer.score([row.ids for row in rows])
        return [_answer(row, number) for row, number in zip(rows, numbers, strict=True)]
    except FORWARD_ERRORS as error:
        if len(rows) > 1:
            middle = len(rows) // 2
            return scored_apart(scorer, rows[:middle]) + scored_apart(scorer, rows[middle:])
        detail = f"the reward model failed on this item: {type(error).__name__}; ask again, or send a shorter one"
        return [failed(rows[0], "internal", detail)]


def failed(of: Row | Item, kind: ScoreErrorType, detail: str) -> Score:
    """Return the answer that has an error instead of a score."""
    error = ScoreError(type=kind, detail=detail, retryable=kind in ("internal", "timeout"))
    if not isinstance(of, Row):
        return Score(id=of.id, error=error)
    return Score(id=of.item.id, num_tokens=of.num_tokens, truncated=of.is_truncated, error=error)


def _answer(row: Row, number: float | list[float]) -> Score:
    numbers = number if isinstance(number, list) else [number]
    if not all(map(math.isfinite, numbers)):
        return failed(
            row, "not_finite", "the reward model's number for this item is NaN or infinite; try another dtype"
        )
    # Of several labels none is the score.
    score = None if isinstance(number, list) else number
    return LabelScore(
        id=row.item.id, score=score, num_tokens=row.num_tokens, truncated=row.is_truncated, logits=numbers
    )
