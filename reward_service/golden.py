"""Golden pairs, read and compared: a wrong pad token, template, head or type moves the numbers that are known."""

import math
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from reward_service.errors import ModelRefused
from wire.golden import GoldenPair

# How far a score may move, relative to 1 + |score|: rounding of the type, summed over the layers.
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.25, "float16": 0.05}
SHOWN = 3


def read_golden(file: Path) -> list[GoldenPair]:
    """Return the golden pairs of a file.

    Raises:
        ModelRefused: a line is not a pair.
    """
    pairs = []
    for number, line in enumerate(file.read_bytes().splitlines(), start=1):
        try:
            pairs.append(GoldenPair.model_validate_json(line))
        except ValidationError as error:
            place = error.errors(include_input=False)[0]
            raise ModelRefused(
                f"{file} line {number} is not a golden pair: {'.'.join(map(str, place['loc']))} {place['msg']}; write "
                "prompt, chosen and rejected, or delete the file"
            ) from None
    return pairs


def largest_move(known: Sequence[float], scores: Sequence[float]) -> float:
    """Return how far the scores are from the known ones at most, relative to 1 + |known|; NaN is far."""
    moves = (abs(score - one) / (1 + abs(one)) for one, score in zip(known, scores, strict=True))
    return max((move if move == move else math.inf for move in moves), default=0.0)


def wrong_pairs(pairs: Sequence[GoldenPair], scores: Sequence[tuple[float, float]], dtype: str) -> list[str]:
    """Return what is wrong with the scores of golden pairs, in words; nothing where all are as they should be.

    Args:
        pairs: the golden pairs.
        scores: the model's scores of each pair's chosen and rejected answer.
        dtype: what these were computed in; a known score may be of a coarser type.
    """
    problems = []
    for number, (pair, (chosen, rejected)) in enumerate(zip(pairs, scores, strict=True), start=1):
        tolerance = max(TOLERANCE[dtype], TOLERANCE[pair.dtype or dtype])
        for known, score in ((pair.chosen_score, chosen), (pair.rejected_score, rejected)):
            if known is not None and largest_move([known], [score]) > tolerance:
                problems.append(f"golden pair {number} scores {score:.4g} where {known:.4g} is known")
        if not chosen > rejected:
            problems.append(f"golden pair {number} is in the wrong order: {chosen:.4g} against {rejected:.4g}")
    if len(problems) > SHOWN:
        problems[SHOWN:] = [f"and {len(problems) - SHOWN} more"]
    hint = "are pad token, chat template and weights those that it was trained with?"
    return [f"self-test: {'; '.join(problems)}; {hint}"] if problems else []
