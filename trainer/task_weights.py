"""rho, the weights by which the tasks' gradients are added in a step."""

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path

import torch

from trainer.config import CGPOConfig
from trainer.experience import Experience
from trainer.iteration import Iteration
from trainer.loss import Total
from trainer.metrics import Means
from trainer.task import TrainingTask

__all__ = ["TaskWeights"]

logger = logging.getLogger(__name__)


class TaskWeights:
    """Says which tasks are trained on in a step and with which weight: the given ones, or adapted to the worst task.

    l_i <- l_i - rate * (p_i + (p_i - q_i)),   rho_i = rho_i^given * L * softmax(l)_i

    p_i is the task's satisfied rate in this step, q_i the one in its step before, L the number of tasks. A task that
    satisfies less than the others, or gains less, weighs more in the next steps; the sum of equal given weights stays.

    Source: MT-GRPO (arXiv 2602.05547), which adapts weights by a task's reward and its improvement. Ours: the satisfied
    rate in place of the reward, since it is what tasks have in common; and the weights scale the gradients, where the
    paper draws more prompts.

    Args:
        tasks: by name.
        args: `task_weight_rate` (0: the given weights), `max_unknown_fraction`, the device.
        total: sums a tensor over all processes.
    """

    def __init__(self, tasks: Mapping[str, TrainingTask], args: CGPOConfig, total: Total) -> None:
        self._tasks = tasks
        self._args = args
        self._total = total
        self._logits = dict.fromkeys(tasks, 0.0)
        self._rates: dict[str, float] = {}

    def of(self, iteration: Iteration, means: Means) -> dict[str, float]:
        """Return rho of each task that is trained on in this step, the same on every process.

        Args:
            iteration: what the tasks have learnt.
            means: takes up what was decided.
        """
        scale = self._scale()
        weights = {}
        for (name, task), experience in zip(self._tasks.items(), iteration.experiences, strict=True):
            is_trained_on = self._is_trained_on(name, experience)
            if is_trained_on:
                weights[name] = task.weight * scale[name]
            if len(self._tasks) > 1:
                means.add(f"task/{name}/update/applied_rate", [is_trained_on])
            if self._args.task_weight_rate > 0:
                means.add(f"task/{name}/weight", [task.weight * scale[name]])
                self._adapt(name, experience)
        means.add("update/applied_rate", [bool(weights)])
        return weights

    def _scale(self) -> dict[str, float]:
        highest = max(self._logits.values())
        powers = {name: math.exp(logit - highest) for name, logit in self._logits.items()}
        return {name: len(powers) * power / sum(powers.values()) for name, power in powers.items()}

    def _adapt(self, name: str, experience: Experience) -> None:
        """Take a task's satisfied rate over all processes into its logit; without known samples it stays."""
        scored = experience.scored
        known, satisfied = (self._sum(mask.sum().float()) for mask in (scored.known_BK, scored.satisfied_BK))
        if known == 0:
            return
        rate = satisfied / known
        gain = rate - self._rates.get(name, rate)
        self._logits[name] -= self._args.task_weight_rate * (rate + gain)
        self._rates[name] = rate

    def _is_trained_on(self, name: str, experience: Experience) -> bool:
        """Return, the same on every process, whether a task has anything to learn from, and enough of it is known."""
        plan, most = experience.plan, self._args.max_unknown_fraction
        unknown = self._sum(torch.tensor(float(experience.num_unknown), device=self._args.device))
        sent = self._sum(torch.tensor(float(experience.scored.known_BK.numel()), device=self._args.device))
        if unknown > most * sent:
            whose = f" of the task {name}" if len(self._tasks) > 1 else ""
            logger.log(
                logging.DEBUG if self._args.process_index else logging.WARNING,  # what all processes know, one says
                "%d of %d samples%s are unknown, more than max_unknown_fraction=%g: no update in this step",
                unknown, sent, whose, most,
            )  # fmt: skip
            return False
        used = plan.used_BK.sum() + (plan.baseline_weights_B != 0).sum()
        return self._sum(used.float()) > 0

    def _sum(self, number: torch.Tensor) -> float:
        return float(self._total(number))

    # -- Checkpoints --------------------------------------------------------------------------------------------------

    def load(self, checkpoint: str | Path) -> None:
        """Take over what a checkpoint holds, if it holds any."""
        kept = Path(checkpoint) / "task_weights.json"
        if kept.is_file():
            content = json.loads(kept.read_text(encoding="utf-8"))
            self._logits.update({name: logit for name, logit in content["logits"].items() if name in self._tasks})
            self._rates.update({name: rate for name, rate in content["rates"].items() if name in self._tasks})

    def save(self, checkpoint: Path) -> None:
        """Write the weights into a checkpoint, where they are adapted."""
        if self._args.task_weight_rate > 0:
            content = {"logits": self._logits, "rates": self._rates}
            (checkpoint / "task_weights.json").write_text(json.dumps(content), encoding="utf-8")
