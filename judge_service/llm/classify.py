"""Backend `classify`: `POST /classify` in vLLM's shape, a classifier that was fitted to one question."""

from collections.abc import Mapping
from typing import Any, ClassVar

from judge_service import guards
from judge_service.llm.backend import Ask, mapping, probability, sequence
from wire.readings import readings

ROUNDING = 0.02
"""How far from 1 the probabilities may sum by rounding."""


class Classify:
    """The completion's text and its first paragraph in, probabilities of the labels out; the last label is violated.

    The one of the two that is more likely violated decides: what stands behind a violation does not hide it.

    Source: CGPO (arXiv 2409.20370), whose false-refusal judge is a fine-tuned classifier; `cgpo fit-judge` makes one.
    """

    path: ClassVar[str] = "classify"
    takes_many: ClassVar[bool] = False
    takes_question: ClassVar[bool] = False

    @staticmethod
    def body(model: str, ask: Ask) -> dict[str, Any]:
        """Return the texts to classify: a classifier obeys nothing, so they need no delimiters."""
        return {"model": model, "input": readings(guards.as_text(ask.item.completion))}

    @staticmethod
    def read(answer: Mapping[str, Any], names: list[str]) -> dict[str, float | None]:
        """Return 1 - probs[-1], the probability of satisfied, of the reading that has less of it."""
        [name] = names
        data = sequence(answer.get("data"), "data")
        if len(data) != 2:
            raise ValueError(f"data has {len(data)} entries for two texts")
        return {name: min(1 - _violated(entry, f"data.{number}") for number, entry in enumerate(data))}


def _violated(entry: object, what: str) -> float:
    given = sequence(mapping(entry, what).get("probs"), f"{what}.probs")
    probs = [probability(value, f"{what}.probs") for value in given]
    if len(probs) < 2 or abs(sum(probs) - 1) > ROUNDING:
        raise ValueError(f"{what}.probs is no distribution over at least two labels")
    return probs[-1]
