"""What judges the completions of the step benchmarks, on both sides of a comparison."""

from typing import Any

JUDGES: dict[str, dict[str, Any]] = {"no_repetition": {}, "word_count": {"max": 60}}
