"""What an LLM judge is: a question about a completion and how its answer is read. Nothing here sends anything.

The questions stand in `prompts/<name>.txt` beside the judge's file, in two parts: below `[satisfied]` the one whose yes
means satisfied, below `[violated]` its opposite. Both are asked; a model that says yes to both contradicts itself, and
its answer is unknown. `{name}` in a question is a placeholder.
"""

import functools
import hashlib
import math
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self

from pydantic import Field, PrivateAttr, model_validator

from judge_service import guards
from judge_service.judge import Judge, JudgeItem, Verdict
from judge_service.llm.settings import LlmUpstream

_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
_PARTS = re.compile(r"\A\s*\[satisfied\]\n(.+?)\n\[violated\]\n(.+)\Z", re.DOTALL)
CERTAIN = 1e-6
"""Nearest that a probability comes to 0 or 1 before its log-odds are taken."""


class InvalidItem(ValueError):
    """The row lacks what the question needs; the message says what."""


class Questions(NamedTuple):
    """The two sides of what an LLM judge wants to know about one completion; both are answered with yes or no."""

    satisfied: str
    violated: str


class LlmJudge(Judge):
    """Base of every judge that a model answers. Its version covers the prompt file, the backend, model and revision."""

    kind: ClassVar[Literal["rule", "llm"]] = "llm"
    runs_in: ClassVar[Literal["thread", "process", "loop"]] = "loop"

    satisfied_above: float = Field(
        default=0.5, ge=0, le=1, description="least probability of satisfied that satisfies; 0.5 is the paper's rule"
    )
    violated_below: float = Field(
        default=0.5, ge=0, le=1, description="a probability of satisfied below it violates; between the two: unknown"
    )
    temperature: float = Field(
        default=1.0, gt=0, le=100, description="divides the log-odds of the model's answer before it is compared"
    )
    both_polarities: bool = Field(
        default=True, description="ask the opposite question too; answers that contradict each other are unknown"
    )

    _upstream: LlmUpstream | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _thresholds_in_order(self) -> Self:
        if self.violated_below > self.satisfied_above:
            raise ValueError("violated_below is above satisfied_above; a probability between them would be both")
        return self

    @property
    def upstream(self) -> LlmUpstream | None:
        """The server that answers; None where none is configured."""
        return self._upstream

    def bind(self, upstream: LlmUpstream | None) -> None:
        """Set the server that answers; before the first verdict, because the version covers it."""
        self._upstream = upstream

    @classmethod
    def prompt_file(cls) -> Path:
        """Return where the two questions stand."""
        source = sys.modules[cls.__module__].__file__
        return Path(source or "").parent / "prompts" / f"{cls.name()}.txt"

    @classmethod
    def warm_up(cls) -> None:
        """Read the prompt file, so that one that is missing or malformed is an error of the start."""
        read_prompt(cls.prompt_file())

    def values(self, item: JudgeItem) -> Mapping[str, str]:
        """Return what stands in the place of each placeholder of the prompt file.

        Raises:
            InvalidItem: the row does not have it.
        """
        return {}

    def questions(self, item: JudgeItem) -> Questions:
        """Return both questions about an item, placeholders filled.

        Raises:
            InvalidItem: the row lacks what they need.
        """
        values = self.values(item)
        return Questions(*(fill(text, values) for text in read_prompt(self.prompt_file())))

    @property
    def asked(self) -> str:
        """What was asked, in one line, as the reason of a verdict says it."""
        return self.satisfied_when

    def read(self, yes: float, opposite_yes: float | None = None) -> Verdict:
        """Return the verdict that the model's probabilities of yes, to the question and to its opposite, stand for.

        Formula: p' = 1 / (1 + exp(-log(p / (1 - p)) / temperature)); satisfied where p' >= satisfied_above, violated
        where p' < violated_below, unknown between them.
        Source: CGPO (arXiv 2409.20370), the judges that compare the positive and the negative answer; temperature:
        Guo et al. 2017, "On Calibration of Modern Neural Networks".
        """
        agreed = yes if opposite_yes is None else guards.agreed(yes, opposite_yes)
        if agreed is None:
            detail = f"says yes to a question with {yes:.3f} and to its opposite with {opposite_yes:.3f}"
            return self.unknown("inconsistent", f"the model contradicts itself: it {detail}")
        probability = _with_temperature(agreed, self.temperature)
        reason = f"probability of satisfied {probability:.3f}: {self.asked}"
        if probability >= self.satisfied_above:
            return self.satisfied(reason, probability)
        if probability < self.violated_below:
            return self.violated(reason, probability)
        between = f"between violated_below {self.violated_below:g} and satisfied_above {self.satisfied_above:g}"
        return self.unknown("abstained", f"the probability of satisfied, {probability:.3f}, is {between}")

    def judge(self, item: JudgeItem) -> Any:
        """Refuse: the runner asks the questions, those of all judges about one completion together.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(f"judge '{self.name()}' is a question; a Runner with a Desk asks it")

    def fingerprint(self) -> str:
        """Return the hash of prompt file and delimiters, and which model of which backend answers."""
        content = "\n".join([*read_prompt(self.prompt_file()), guards.form()])
        prompt = hashlib.sha256(content.encode()).hexdigest()
        return f"{prompt} {self._upstream.identity() if self._upstream else 'no upstream'}"


@functools.cache
def read_prompt(path: Path) -> Questions:
    """Return the two questions of a prompt file, placeholders unfilled; read once in a process.

    Raises:
        ValueError: the file does not have the two parts.
    """
    parts = _PARTS.match(path.read_text("utf-8"))
    if parts is None:
        raise ValueError(f"{path} needs a part [satisfied] and then a part [violated]")
    return Questions(parts[1].strip(), parts[2].strip())


def fill(template: str, values: Mapping[str, str]) -> str:
    """Return a template with its placeholders filled in one pass: a value with a placeholder in it stays as it is.

    >>> fill("Is {fact} said? {{json}}", {"fact": "{policy}", "policy": "no"})
    'Is {policy} said? {{json}}'
    """
    return _PLACEHOLDER.sub(lambda found: values.get(found[1], found[0]), template)


def _with_temperature(probability: float, temperature: float) -> float:
    if temperature == 1:
        return probability
    kept = min(1 - CERTAIN, max(CERTAIN, probability))
    return 1 / (1 + math.exp(-math.log(kept / (1 - kept)) / temperature))
