"""What is tried on a reward model before it is served, and again whenever all of a batch has failed."""

import math
from collections.abc import Sequence
from typing import Protocol

from reward_service.errors import EncodingRefused
from reward_service.golden import TOLERANCE, largest_move, wrong_pairs
from reward_service.scorer import FORWARD_ERRORS, Encoded
from wire.base import Prompt
from wire.golden import GoldenPair

EXAMPLES = (
    ("What is the capital of France?", "Paris."),
    ("Name a colour.", "Blue, which is the colour of the sky on a clear day, and of the sea below it."),
    ("Say nothing.", ""),
)


class Tested(Protocol):
    """A loaded reward model, as the self-test sees it."""

    @property
    def pad_token(self) -> tuple[int, str]:
        """Id and text of the token that rows are padded with."""

    @property
    def ending(self) -> tuple[int, str] | None:
        """Id and text of the token that ends a turn; None where there is none."""

    @property
    def reads_conversations(self) -> bool:
        """Whether it has a chat template; a plain classifier has none."""

    def encode(self, prompt: Prompt, completion: str) -> Encoded:
        """Return an item in the chat template."""

    def encode_text(self, text: str, special_tokens: bool) -> Encoded:
        """Return a text as it is."""

    def score(self, rows: Sequence[list[int]]) -> Sequence[float | list[float]]:
        """Return the numbers of each row."""


def self_test(model: Tested, golden: Sequence[GoldenPair], dtype: str) -> list[str]:
    """Return what is wrong with a model's answers, each with the way out; nothing where all is well.

    Args:
        model: the model.
        golden: pairs whose order, and perhaps scores, are known.
        dtype: what it computes in, which says how far a score may move.
    """
    try:
        if not model.reads_conversations:
            return _numbers(model, [model.encode_text(completion or "-", True) for _, completion in EXAMPLES], dtype)
        problems = _numbers(model, [model.encode(*example) for example in EXAMPLES], dtype)
        return problems or [*_template(model), *_pad_token(model), *_golden(model, golden, dtype)]
    except EncodingRefused as error:
        return [f"self-test: {error}"]
    except FORWARD_ERRORS as error:
        pad_id, _ = model.pad_token
        return [
            f"self-test: the forward pass fails with {type(error).__name__}; has the model an embedding for each token "
            f"of its tokenizer and for pad_token_id={pad_id}, and the device room for it?"
        ]


def _numbers(model: Tested, rows: Sequence[Encoded], dtype: str) -> list[str]:
    alone = [number for row in rows for number in _flat(model.score([row.ids]))]
    together = _flat(model.score([row.ids for row in rows]))
    if not all(map(math.isfinite, alone + together)):
        return ["self-test: the reward model's scores are NaN or infinite; try --dtype float32 or other weights"]
    if (moved := largest_move(alone, together)) > TOLERANCE[dtype]:
        return [f"self-test: scores move by {moved:.2g} with their batch mates; padding is not ignored"]
    return []


def _template(model: Tested) -> list[str]:
    ids = model.encode("Hello", "Hi").ids
    problems = []
    if ids in (model.encode("Hello", "Bye").ids, model.encode("Goodbye", "Hi").ids):
        problems.append(
            "self-test: the chat template leaves out the prompt or the completion; set chat_template of the tokenizer "
            "to the one that the reward model was trained with"
        )
    if model.ending:
        token_id, text = model.ending
        if model.encode("Hello", text).ids.count(token_id) > ids.count(token_id):
            problems.append(
                "self-test: control tokens that a completion spells are encoded as such; install the versions of "
                "constraints.txt"
            )
    return problems


def _pad_token(model: Tested) -> list[str]:
    """Return whether a completion can end with the pad token: the model reads its number off the last other token."""
    pad_id, text = model.pad_token
    endings = {_num_trailing(model.encode("Hello", completion).ids, pad_id) for completion in ("Hi", f"Hi{text}", text)}
    if len(endings) == 1:
        return []
    return [
        f"self-test: the pad token {text!r} (id {pad_id}) can end a completion, and would be read past; "
        "set pad_token_id in config.json to the one that the reward model was trained with"
    ]


def _golden(model: Tested, golden: Sequence[GoldenPair], dtype: str) -> list[str]:
    scores = []
    for pair in golden:  # a pair at a time: however many there are, and however long, they fit
        chosen, rejected = (model.encode(pair.prompt, answer).ids for answer in (pair.chosen, pair.rejected))
        better, worse = _flat(model.score([chosen, rejected]))
        scores.append((better, worse))
    return wrong_pairs(golden, scores, dtype)


def _flat(numbers: Sequence[float | list[float]]) -> list[float]:
    return [one for number in numbers for one in (number if isinstance(number, list) else [number])]


def _num_trailing(ids: Sequence[int], token_id: int) -> int:
    return next((place for place, one in enumerate(reversed(ids)) if one != token_id), len(ids))
