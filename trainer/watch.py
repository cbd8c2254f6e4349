"""Warnings about a run that goes wrong while its numbers look right: reward hacking, and a policy that drifts away."""

import logging
import math
import statistics
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trainer.task import TrainingTask

__all__ = ["Watch", "kl_thresholds", "trend"]

logger = logging.getLogger(__name__)

WINDOW = 10
"""Logs that are compared with as many before them."""
STANDARD_ERRORS = 2.0
"""By how many standard errors the means of two windows differ before that counts as a trend."""
NEAR = 0.8
"""The share of the KL threshold from which on the mean log-ratio is near it."""

SATISFIED, SCORE, LOGRATIO = "constraint/satisfied_rate", "score/mean", "kl/mean"


class Watch(TrainerCallback):
    """Warns where the score rises while the satisfied rate falls, and where the log-ratio nears its threshold.

    Reward hacking: of the last `WINDOW` logs and the `WINDOW` before them, `trend` of the score is up and that of the
    satisfied rate is down. Drift: the mean log-ratio of the last `WINDOW` logs is over `NEAR` of the threshold. Each is
    said once per episode, and again only after a log in which it was not so.

    Args:
        kl_thresholds: largest log-ratio of each task, nats per completion, by the prefix of its metrics.
    """

    def __init__(self, kl_thresholds: Mapping[str, float]) -> None:
        self._kl_thresholds = kl_thresholds
        self._logged: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=2 * WINDOW))
        self._said: set[tuple[str, str]] = set()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Take a log of training into account; evaluations are passed over."""
        if not logs or "loss" not in logs or not state.is_world_process_zero:
            return
        for prefix, threshold in self._kl_thresholds.items():
            for name in (SATISFIED, SCORE, LOGRATIO):
                value = logs.get(prefix + name)
                if value is not None and math.isfinite(value):
                    self._logged[prefix + name].append(value)
            whose = f" of the task {prefix.split('/')[1]}" if prefix else ""
            score, satisfied, logratio = (self._logged[prefix + name] for name in (SCORE, SATISFIED, LOGRATIO))
            hacking = (
                f"step {state.global_step}: the score{whose} rises while the satisfied rate falls, so the reward model "
                "is being hacked faster than the judges hold against it; look at the completions, add a judge for what "
                "they do, or raise k"
            )
            self._say((prefix, "hacking"), trend(score) > 0 > trend(satisfied), hacking)
            recent = list(logratio)[-WINDOW:]
            mean = statistics.fmean(recent) if recent else 0.0
            drift = (
                f"step {state.global_step}: the mean log-ratio{whose} is {mean:.3g} nats, near "
                f"kl_threshold={threshold:g}; what lies beyond earns nothing. Lower the learning rate, or raise it"
            )
            self._say((prefix, "drift"), len(recent) == WINDOW and mean > NEAR * threshold, drift)

    def _say(self, what: tuple[str, str], is_so: bool, text: str) -> None:
        if is_so and what not in self._said:
            logger.warning(text)
        self._said.add(what) if is_so else self._said.discard(what)


def kl_thresholds(tasks: Mapping[str, TrainingTask]) -> dict[str, float]:
    """Return the KL threshold of each task by the prefix of its metrics, which a single task's have not."""
    return {f"task/{n}/" if len(tasks) > 1 else "": task.loss_settings.kl_threshold for n, task in tasks.items()}


def trend(values: Sequence[float]) -> int:
    """Return 1 where the newer half of the values is higher than the older one, -1 where it is lower, 0 where neither.

    Higher: the means differ by more than `STANDARD_ERRORS` times sqrt(v1 / n + v2 / n), v the variances of the n values
    of each half. With fewer than 2 * `WINDOW` values there is no trend.
    """
    listed = list(values)
    if len(listed) < 2 * WINDOW:
        return 0
    older, newer = listed[:WINDOW], listed[WINDOW:]
    error = math.sqrt((statistics.variance(older) + statistics.variance(newer)) / WINDOW)
    difference = statistics.fmean(newer) - statistics.fmean(older)
    return 0 if abs(difference) <= STANDARD_ERRORS * error else int(math.copysign(1, difference))
