"""Ready tasks, one file each: the paper's judges, and its advice on exploration, without any prompts.

To use one: `ready: math_reasoning` in a run's YAML, or `ready_task("math_reasoning").task(...)`. To add one: write a
file here with `JUDGES` and `SETTINGS`, and its name into `READY_TASKS`.

Source: arXiv 2409.20370, section 5, in words only: precise judges with much exploration (instructions, mathematics,
code) have many completions per prompt and a lenient KL threshold; general chat has few and a strict one. The numbers
are ours.
"""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainer.errors import ConfigError

if TYPE_CHECKING:
    from trainer.task import Task

__all__ = ["READY_TASKS", "ReadyTask", "ready_task"]

READY_TASKS = ("coding", "general_chat", "harmful_intent", "instruction_following", "math_reasoning")


@dataclass(frozen=True)
class ReadyTask:
    """What a task is, apart from its prompts.

    Args:
        name: of its file.
        judges: names of a judge service's judges.
        settings: fields of `Task`.
    """

    name: str
    judges: Sequence[str]
    settings: Mapping[str, Any]

    def task(self, judge_url: str | Sequence[str], *, token: str | None = None, **changes: Any) -> "Task":
        """Return the task with its judges at a service.

        Args:
            judge_url: where the judge service is, or a list of replicas.
            token: bearer token, where the service wants one.
            changes: fields of `Task`: `train_dataset`, and whatever is to differ.
        """
        from trainer.mixture import MixtureOfConstraintJudges, RemoteJudge
        from trainer.task import Task  # loads torch, which a configuration can be checked without

        mixture = MixtureOfConstraintJudges(RemoteJudge(judge, judge_url, token=token) for judge in self.judges)
        return Task(**{"name": self.name, "mixture_of_judges": mixture, **self.settings, **changes})


def ready_task(name: str) -> ReadyTask:
    """Return the ready task of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in READY_TASKS:
        raise ConfigError(f"no ready task named {name!r}; there are: {', '.join(READY_TASKS)}")
    module = importlib.import_module(f"trainer.tasks.{name}")
    return ReadyTask(name, module.JUDGES, module.SETTINGS)
