"""Judge `rubric`: the completion meets a criterion in words."""

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from judge_service.judge import JudgeItem
from judge_service.question import LlmJudge


class Rubric(LlmJudge):
    """Satisfied when `criterion` holds of the completion; it goes on after "the completion is satisfied when".

    >>> judge = Rubric(criterion="it names a source for each number")
    >>> judge.read(yes=0.8, opposite_yes=0.3).outcome
    'satisfied'
    >>> judge.read(yes=0.8, opposite_yes=0.3).reason
    'probability of satisfied 0.750: satisfied when it names a source for each number'
    >>> judge.read(yes=0.3, opposite_yes=0.8).outcome
    'violated'
    >>> Rubric(criterion="it is polite", satisfied_above=0.9, violated_below=0.3).read(yes=0.6).error.type
    'abstained'
    """

    satisfied_when: ClassVar[str] = "the criterion that the parameter `criterion` puts into words holds of the response"

    criterion: str = Field(
        min_length=1, max_length=20_000, description="what must hold: goes on after 'satisfied when', as in 'it rhymes'"
    )

    @property
    def asked(self) -> str:
        """The criterion itself."""
        return f"satisfied when {self.criterion}"

    def values(self, item: JudgeItem) -> Mapping[str, str]:
        """Return the criterion."""
        return {"criterion": self.criterion}
