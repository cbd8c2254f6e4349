"""A task: prompts with the judges, the reward model and the optimizer that are meant for them (Algorithm 2)."""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

from torch.utils.data import ConcatDataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trainer.batch import ScoredRollout
from trainer.config import CGPOConfig
from trainer.dataset import PromptDataset, as_prompts
from trainer.errors import CGPOError, ConfigError
from trainer.loss import Loss, LossSettings, Total, adapt, load_loss
from trainer.mixture import MixtureOfConstraintJudges, as_mixture
from trainer.reward import RewardModel, as_reward_model

__all__ = ["Task", "TrainingTask", "batch_sizes", "joined_rows", "rows_to_evaluate", "single_task", "training_tasks"]

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Task:
    """Prompts of one kind, and how a policy is trained on them. What is None comes from `CGPOConfig`.

    Source: Algorithm 2: each task has a mixture of judges, a reward model, an optimizer and its settings of its own.

    Args:
        name: in metrics, files and messages; without a slash.
        train_dataset: rows as `CGPOTrainer` takes them.
        eval_dataset: the same, held out; None: the task is not evaluated.
        mixture_of_judges: the task's constraints.
        reward_model: scores the task's completions. Default: the trainer's, shared.
        rlhf_optimizer: crpg, codpo, crraft or one's own.
        k: completions per prompt.
        kl_threshold: largest log-ratio of policy and reference, nats per completion.
        temperature: of the sampling.
        max_new_tokens: most tokens of one completion.
        batch_size: prompts of this task in one optimizer step, over all processes. Default: an equal share of what the
            other tasks leave of the step's prompts.
        weight: rho, by which the task's gradient is multiplied before the tasks' gradients are added.
    """

    name: str
    train_dataset: Rows | None
    eval_dataset: Rows | Mapping[str, Rows] | None = None
    mixture_of_judges: MixtureOfConstraintJudges | Sequence[Any] = ()
    reward_model: PreTrainedModel | RewardModel | None = None
    rlhf_optimizer: str | None = None
    k: int | None = None
    kl_threshold: float | None = None
    temperature: float | None = None
    max_new_tokens: int | None = None
    batch_size: int | None = None
    weight: float = 1.0

    def settings(self, args: CGPOConfig) -> CGPOConfig:
        """Return a configuration with this task's values in place of the run's.

        Raises:
            ConfigError: one of the values cannot work; the message names the task.
        """
        settings = copy(args)
        for name in OWN_SETTINGS:
            if getattr(self, name) is not None:
                setattr(settings, name, getattr(self, name))
        try:
            if not self.name or "/" in self.name:
                raise ConfigError(f"name={self.name!r}: must be a word without a slash; metrics have it in their names")
            if not self.weight >= 0:
                raise ConfigError(f"weight={self.weight}: must be 0 or greater")
            if self.batch_size is not None and self.batch_size < 1:
                raise ConfigError(f"batch_size={self.batch_size}: must be at least 1")
            settings.check_method()
        except CGPOError as error:
            raise type(error)(f"task {self.name!r}: {error}") from error
        return settings


OWN_SETTINGS = ("rlhf_optimizer", "k", "kl_threshold", "temperature", "max_new_tokens")


@dataclass
class TrainingTask:
    """A task as a trainer holds it: every setting given, its rows tokenised, its loss loaded.

    Nothing of it changes but the multipliers in `loss_settings`, where the loss adapts them.
    """

    name: str
    train_dataset: PromptDataset | None
    eval_dataset: PromptDataset | dict[str, PromptDataset] | None
    mixture: MixtureOfConstraintJudges
    reward_model: RewardModel
    loss: Loss
    loss_settings: LossSettings
    k: int
    temperature: float
    max_new_tokens: int
    batch_size: int
    weight: float

    def adapt(self, scored: ScoredRollout, total: Total) -> None:
        """Take over the settings that the loss makes of a step for the next one."""
        self.loss_settings = adapt(self.loss, scored, self.loss_settings, total)


def training_tasks(
    tasks: Sequence[Task],
    args: CGPOConfig,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    reward_model: PreTrainedModel | RewardModel | None,
    reward_tokenizer: PreTrainedTokenizerBase,
) -> dict[str, TrainingTask]:
    """Return tasks by their names, ready for a trainer.

    Args:
        tasks: at least one.
        args: the run's configuration.
        tokenizer: the policy's.
        max_length: most tokens of prompt and completion.
        reward_model: scores the tasks that have none of their own.
        reward_tokenizer: of reward models in this process.

    Raises:
        CGPOError: a value, a row or a part that cannot work; the message names the task where there are several.
    """
    names = [task.name for task in tasks]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"two tasks are called {twice[0]!r}; give each a name of its own")
    settings_of = [task.settings(args) for task in tasks]
    sizes = batch_sizes(tasks, args.train_batch_size * args.gradient_accumulation_steps * args.world_size)
    scorers = [reward_model if task.reward_model is None else task.reward_model for task in tasks]
    # One object for what several tasks share, so that their samples go out in one request.
    shared = {id(one): as_reward_model(one, reward_tokenizer, args.device, args.reward_chunk_size) for one in scorers}
    made: dict[str, TrainingTask] = {}
    for task, settings, batch_size, scorer in zip(tasks, settings_of, sizes, scorers, strict=True):
        where = f"tasks[{task.name!r}]." if len(tasks) > 1 else ""
        limits = (tokenizer, max_length, settings.max_new_tokens)
        made[task.name] = TrainingTask(
            name=task.name,
            train_dataset=as_prompts(task.train_dataset, *limits, f"{where}train_dataset", task.name),
            eval_dataset=as_prompts(task.eval_dataset, *limits, f"{where}eval_dataset", task.name),
            mixture=as_mixture(task.mixture_of_judges),
            reward_model=shared[id(scorer)],
            loss=load_loss(settings.rlhf_optimizer),
            loss_settings=LossSettings.of(settings),
            k=settings.k,
            temperature=settings.temperature,
            max_new_tokens=settings.max_new_tokens,
            batch_size=batch_size,
            weight=task.weight,
        )
    return made


def batch_sizes(tasks: Sequence[Task], num_prompts: int) -> list[int]:
    """Return how many prompts of each task an optimizer step has.

    Args:
        tasks: those without a `batch_size` share equally what the others leave.
        num_prompts: of one step, over micro-batches and processes.

    >>> made = [Task(name=name, train_dataset=None, batch_size=size) for name, size in (("a", 4), ("b", None))]
    >>> batch_sizes(made, 6)
    [4, 2]

    Raises:
        ConfigError: they do not add up to the step's prompts.
    """
    named = sum(task.batch_size or 0 for task in tasks)
    unnamed = sum(task.batch_size is None for task in tasks)
    share, rest = divmod(num_prompts - named, unnamed) if unnamed else (0, num_prompts - named)
    if rest or (unnamed and share < 1):
        listed = ", ".join(f"{task.name}: {task.batch_size or 'a share'}" for task in tasks)
        raise ConfigError(
            f"a step has {num_prompts} prompts (per_device_train_batch_size * gradient_accumulation_steps * "
            f"processes), which the tasks' batch sizes do not add up to ({listed}); set per_device_train_batch_size so "
            "that they do"
        )
    return [task.batch_size or share for task in tasks]


def single_task(train_dataset: Any, eval_dataset: Any, judges: Any, tasks: Sequence[Task] | None) -> Task | None:
    """Return the one task that a trainer's own arguments make, None where tasks are given.

    Raises:
        ConfigError: both are given.
    """
    if tasks is None:
        return Task(name="default", train_dataset=train_dataset, eval_dataset=eval_dataset, mixture_of_judges=judges)
    if train_dataset is not None or eval_dataset is not None or judges:
        raise ConfigError("tasks besides train_dataset, eval_dataset or mixture_of_judges: give these to each Task")
    if not tasks:
        raise ConfigError("tasks is empty; pass at least one Task, or train_dataset and mixture_of_judges")
    return None


def joined_rows(datasets: Sequence[PromptDataset | dict[str, PromptDataset] | None]) -> Any:
    """Return the datasets of all tasks laid end to end, None where there is none; that of a single task is itself.

    Raises:
        ConfigError: one of several is a dictionary of datasets.
    """
    if len(datasets) == 1:
        return datasets[0]
    found = [dataset for dataset in datasets if dataset is not None]
    for dataset in found:
        if isinstance(dataset, dict):
            raise ConfigError(
                f"{next(iter(dataset.values())).name}: with several tasks a task's eval_dataset is one list of rows"
            )
    return ConcatDataset(found) if found else None


def rows_to_evaluate(
    rows: Rows, tasks: Mapping[str, TrainingTask], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> PromptDataset:
    """Return rows that a user passes to `evaluate` as prompts of the one task there is.

    Raises:
        ConfigError: there are several.
    """
    if len(tasks) > 1:
        raise ConfigError(
            f"evaluate was given rows, and there are several tasks ({', '.join(tasks)}); give the rows to a task as "
            "its eval_dataset"
        )
    (task,) = tasks.values()
    return PromptDataset(rows, tokenizer, max_length, task.max_new_tokens, "eval_dataset", task.name)
