"""Golden pairs: answers whose order, and whose scores, are known of a reward model; kept beside its weights.

`golden.jsonl` in a model's folder has one pair a line, its scores and the type they were computed in where known:

    {"prompt": "2 + 2?", "chosen": "4", "rejected": "5", "chosen_score": 1.2, "rejected_score": -1, "dtype": "float32"}

`cgpo fit-reward` writes it, the reward service tests it at start.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from wire.base import Prompt

GOLDEN_FILE = "golden.jsonl"


class GoldenPair(BaseModel):
    """Two answers to one prompt, the better one first."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    prompt: Prompt
    chosen: str
    rejected: str
    chosen_score: float | None = None
    rejected_score: float | None = None
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
