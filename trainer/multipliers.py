"""The multipliers of an adaptive loss, in checkpoints and logs: the one thing that a loss remembers between steps."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

__all__ = ["SaveMultipliers", "load_multipliers", "multiplier_metrics"]

ByTask = Mapping[str, Mapping[str, float]]
"""Of each task, by its name: the multiplier of each judge, by its label."""


class SaveMultipliers(TrainerCallback):
    """Puts the multipliers of all tasks into every checkpoint, as one file: they are the same on every process.

    Args:
        current: returns them as they are now.
    """

    def __init__(self, current: Callable[[], ByTask]) -> None:
        self.current = current

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Write them beside the weights that have just been saved."""
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and checkpoint.is_dir():
            _path(checkpoint).write_text(json.dumps(self.current()), encoding="utf-8")


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
