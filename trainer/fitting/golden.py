"""Golden pairs of a fitted reward model: held-out answers with their scores, by which its service knows it again."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from trainer.fitting.encoding import encoded
from trainer.fitting.pairs import Pair, Turns
from wire.base import Message, Prompt
from wire.golden import GOLDEN_FILE, GoldenPair

__all__ = ["golden_pairs", "write_golden"]

MOST = 8
SURE = 1.0
"""Smallest difference of the scores, in the Bradley-Terry model odds of e to 1: rounding does not turn it around."""
LONGEST = 512
"""Tokens of a conversation: the service's start waits for these."""


def golden_pairs(
    tokenizer: PreTrainedTokenizerBase,
    held_out: Sequence[Pair],
    scores: Mapping[Turns, float],
    dtype: str,
    max_length: int | None = None,
) -> list[GoldenPair]:
    """Returns the held-out pairs that the model is surest of, at most one of a prompt; none where it is sure of none.

    Args:
        tokenizer: The model's.
        held_out: Pairs that were not fitted to.
        scores: Of their conversations.
        dtype: What the scores were computed in.
        max_length: Tokens read of one conversation; a longer one is left out, as the service may read more of it.
    """
    longest = min(LONGEST, max_length or LONGEST)

    def margin(pair: Pair) -> float:
        chosen, rejected = pair.conversations
        return scores[chosen] - scores[rejected]

    taken: dict[Turns, GoldenPair] = {}
    for pair in sorted(held_out, key=margin, reverse=True):
        if len(taken) == MOST or margin(pair) < SURE:
            break
        if pair.prompt in taken or not all(map(_is_one_answer, (pair.chosen, pair.rejected))):
            continue
        if max(map(len, encoded(tokenizer, pair.conversations))) > longest:
            continue
        chosen, rejected = (scores[turns] for turns in pair.conversations)
        taken[pair.prompt] = GoldenPair(
            prompt=_prompt(pair.prompt), chosen=pair.chosen[0][1], rejected=pair.rejected[0][1],
            chosen_score=chosen, rejected_score=rejected, dtype=dtype,
        )  # fmt: skip
    return list(taken.values())


def write_golden(pairs: Sequence[GoldenPair], folder: Path) -> None:
    """Writes the pairs of a model into its folder; where there are none, the file of another model goes."""
    file = folder / GOLDEN_FILE
    if pairs:
        file.write_text("".join(pair.model_dump_json() + "\n" for pair in pairs), encoding="utf-8")
    else:
        file.unlink(missing_ok=True)


def _is_one_answer(turns: Turns) -> bool:
    return [role for role, _ in turns] == ["assistant"]


def _prompt(turns: Turns) -> Prompt:
    if [role for role, _ in turns] == ["user"]:
        return turns[0][1]
    return [Message(role=role, content=content) for role, content in turns]
