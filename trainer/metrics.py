"""What a run reports: means over samples, correct over micro-batches, steps and processes; as JSONL."""

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

__all__ = ["METRICS", "Clock", "JsonlMetrics", "Means"]

METRICS = "metrics.jsonl"


class Means:
    """Named means, each a sum and a count, so that parts of different size add up rightly.

    >>> means = Means()
    >>> means.add("score/mean", [1.0, 2.0])
    >>> means.add("score/mean", [6.0])
    >>> means.result()
    {'score/mean': 3.0}
    """

    def __init__(self) -> None:
        self._totals: dict[str, tuple[float, float]] = {}

    def add(self, name: str, values: Iterable[float]) -> None:
        """Add values to a mean."""
        listed = [float(value) for value in values]
        self._merge(name, sum(listed), len(listed))

    def merge(self, other: "Means") -> None:
        """Add all of another's values to this one's."""
        for name, (total, count) in other._totals.items():
            self._merge(name, total, count)

    def under(self, prefix: str) -> "Means":
        """Return the same means with a prefix before their names."""
        named = Means()
        named._totals = {f"{prefix}{name}": total for name, total in self._totals.items()}
        return named

    def only(self, prefixes: tuple[str, ...]) -> "Means":
        """Return the means whose names begin with one of these."""
        kept = Means()
        kept._totals = {name: total for name, total in self._totals.items() if name.startswith(prefixes)}
        return kept

    def totals(self) -> dict[str, tuple[float, float]]:
        """Return sum and count of each mean, by name."""
        return dict(self._totals)

    def over_processes(
        self, total: Callable[[Tensor], Tensor], device: torch.device, num_parts: int | None = None
    ) -> dict[str, float]:
        """Return the means over all processes that have any value; of counts (`num/...`) a sum.

        Args:
            total: sums a tensor over all processes.
            device: of that tensor.
            num_parts: how many values of a count make the sum that is wanted: of a step, one from each process.
                Default: all there are.
        """
        if not self._totals:
            return {}
        summed = total(torch.tensor(list(self._totals.values()), dtype=torch.float64, device=device))
        return {
            name: float(value / count * (num_parts or count) if "/num/" in f"/{name}" else value / count)
            for name, (value, count) in zip(self._totals, summed, strict=True)
            if count > 0
        }

    def result(self) -> dict[str, float]:
        """Return the means that have any value."""
        return {name: total / count for name, (total, count) in self._totals.items() if count}

    def _merge(self, name: str, total: float, count: float) -> None:
        before = self._totals.get(name, (0.0, 0.0))
        self._totals[name] = (before[0] + total, before[1] + count)


class Clock:
    """Adds up how long named parts of a step take, in seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Add the time of a block to a name."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


class JsonlMetrics(TrainerCallback):
    """Appends every log of the trainer to `metrics.jsonl` in the output folder, one JSON object a line."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Write one line: the step, then the logged values."""
        if state.is_world_process_zero and logs:
            path = Path(args.output_dir) / METRICS
            path.parent.mkdir(parents=True, exist_ok=True)
            # JSON has no word for NaN and infinity: a reader would stop at the line.
            values = {n: None if isinstance(v, float) and not math.isfinite(v) else v for n, v in logs.items()}
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, **values}, default=float) + "\n")
