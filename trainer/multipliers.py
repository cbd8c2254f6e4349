"""The multipliers of an adaptive loss, in checkpoints and logs: the one thing that a loss remembers between steps."""

import json
from collections.abc import Mapping
from pathlib import Path

__all__ = ["load_multipliers", "multiplier_metrics", "save_multipliers"]

ByTask = Mapping[str, Mapping[str, float]]
"""Of each task, by its name: the multiplier of each judge, by its label."""


def save_multipliers(checkpoint: str | Path, current: ByTask) -> None:
    """Put the multipliers of all tasks into a checkpoint, as one file: they are the same on every process."""
    _path(checkpoint).write_text(json.dumps(current), encoding="utf-8")


def load_multipliers(checkpoint: str | Path, task: str) -> Mapping[str, float]:
    """Return the multipliers of a task that a checkpoint holds; none where it holds none."""
    path = _path(checkpoint)
    return json.loads(path.read_text(encoding="utf-8")).get(task, {}) if path.is_file() else {}


def multiplier_metrics(multipliers: Mapping[str, float]) -> dict[str, float]:
    """Return multipliers under the names of metrics.

    >>> multiplier_metrics({"word_count": 1.5})
    {'constraint/word_count/multiplier': 1.5}
    """
    return {f"constraint/{judge}/multiplier": value for judge, value in multipliers.items()}


def _path(checkpoint: str | Path) -> Path:
    return Path(checkpoint) / "multipliers.json"
