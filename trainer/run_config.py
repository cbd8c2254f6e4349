"""A run as one YAML file: models, data, judges or tasks, and the settings of `CGPOConfig`."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from trainer.errors import ConfigError
from trainer.tasks import READY_TASKS, ready_task

__all__ = ["JudgeEntry", "RunConfig", "TaskEntry", "read_run_config", "with_overrides"]


class JudgeEntry(BaseModel):
    """One judge of a mixture."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(description="a judge of the judge service")
    parameters: dict[str, Any] = Field(default_factory=dict, description="values for its parameters")


class TaskEntry(BaseModel):
    """One task of a run; what it leaves out comes from the ready task it names, then from `training`."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, pattern="^[^/.]+$", description="in metrics, files, and --set tasks.NAME.FIELD")
    ready: str | None = Field(default=None, description="a ready task whose judges and settings this one has")
    train_dataset: str = Field(description="JSONL, Parquet, a dataset folder, a hub id, or a packaged set")
    eval_dataset: str | None = Field(default=None, description="the same, for evaluation before and after")
    judges: list[str | JudgeEntry] = Field(default_factory=list, description="the task's mixture of judges")
    reward_url: str | list[str] | None = Field(default=None, description="a reward service of the task's own")
    rlhf_optimizer: str | None = Field(default=None, description="crpg, codpo, crraft or one's own")
    k: int | None = Field(default=None, description="completions per prompt")
    kl_threshold: float | None = Field(default=None, description="largest log-ratio, nats per completion")
    temperature: float | None = Field(default=None, description="of the sampling")
    max_new_tokens: int | None = Field(default=None, description="most tokens of one completion")
    batch_size: int | None = Field(default=None, description="prompts of one step; none: an equal share")
    weight: float = Field(default=1.0, description="of the task's gradient")

    @model_validator(mode="after")
    def _has_judges(self) -> Self:
        if self.ready is not None and self.ready not in READY_TASKS:
            raise ValueError(f"no ready task named {self.ready!r}; there are: {', '.join(READY_TASKS)}")
        if not self.judges and self.ready is None:
            raise ValueError(f"the task {self.name!r} has no judges; name some, or a ready task")
        return self

    def entries(self) -> list[JudgeEntry]:
        """Return the judges, the ready task's where none are named."""
        return _entries(self.judges or ready_task(self.ready or "").judges)

    def settings(self) -> dict[str, Any]:
        """Return the values that the task has of its own, those of its ready task where it leaves them out."""
        names = ("rlhf_optimizer", "k", "kl_threshold", "temperature", "max_new_tokens", "batch_size")
        own = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        given = ready_task(self.ready).settings if self.ready else {}
        return {**given, **own, "weight": self.weight}


class RunConfig(BaseModel):
    """Everything that `cgpo train` needs to know."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(default="embedded", description="the policy: a folder, a hub id, or `embedded`")
    reward_model: str = Field(
        default="embedded",
        description="served where no URL is given: a folder, a hub id, or `embedded`",
    )
    train_dataset: str | None = Field(
        default=None, description="JSONL, Parquet, a dataset folder, a hub id, or a packaged set"
    )
    eval_dataset: str | None = Field(default=None, description="the same, for evaluation before and after")
    judges: list[str | JudgeEntry] = Field(default_factory=list, description="the mixture of judges")
    tasks: list[TaskEntry] = Field(
        default_factory=list, description="several tasks instead of train_dataset, eval_dataset and judges"
    )
    judge_url: str | list[str] | None = Field(
        default=None, description="where the judge service is; without any URL both are started"
    )
    reward_url: str | list[str] | None = Field(default=None, description="where the reward service is")
    peft: dict[str, Any] | None = Field(default=None, description="arguments of peft.LoraConfig; none: all weights")
    training: dict[str, Any] = Field(default_factory=dict, description="fields of CGPOConfig")

    @model_validator(mode="after")
    def _has_work(self) -> Self:
        if self.tasks:
            double = [name for name in ("train_dataset", "eval_dataset", "judges") if getattr(self, name)]
            if double:
                raise ValueError(f"{double[0]} besides tasks: each task has its own")
            names = [task.name for task in self.tasks]
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"two tasks are called {twice[0]!r}")
        elif not self.train_dataset or not self.judges:
            missing = "judges" if self.train_dataset else "train_dataset"
            raise ValueError(f"{missing} is missing; give train_dataset and judges, or tasks")
        return self

    def entries(self) -> list[JudgeEntry]:
        """Return the judges, those given by name alone without parameters."""
        return _entries(self.judges)

    def all_judges(self) -> set[str]:
        """Return the names of the judges of all tasks."""
        return {entry.name for entry in self.entries()} | {e.name for task in self.tasks for e in task.entries()}


def _entries(judges: Sequence[str | JudgeEntry]) -> list[JudgeEntry]:
    return [JudgeEntry(name=judge) if isinstance(judge, str) else judge for judge in judges]


def read_run_config(path: Path) -> RunConfig:
    """Return the run that a YAML file describes.

    Raises:
        ConfigError: the file is missing, is not YAML, or has a wrong or unknown field; each is named.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"there is no file {path}; examples/quickstart.yaml is one to start from") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        what = "is empty" if content is None else f"holds a {type(content).__name__}, not fields of a run"
        raise ConfigError(f"{path} {what}; examples/quickstart.yaml is one to start from")
    return _validated(content, str(path))


def with_overrides(config: RunConfig, overrides: Sequence[str] | None) -> RunConfig:
    """Return the configuration with `key.key=value` settings put in; values are read as YAML.

    A task is named by its name or its number: `tasks.short_answers.k=8`, `tasks.0.k=8`.

    Raises:
        ConfigError: one is not written so, is not YAML, or names no field.
    """
    content: dict[str, Any] = config.model_dump()
    for override in overrides or ():
        key, equals, value = override.partition("=")
        if not equals:
            raise ConfigError(f"--set {override}: write it as KEY=VALUE, for example training.k=8")
        *parents, last = key.split(".")
        target: Any = content
        for parent in parents:
            target = _inside(target, parent, override)
        if not isinstance(target, dict):
            raise ConfigError(f"--set {override}: {parents[-1]} has no fields; set it as a whole")
        try:
            target[last] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {override}: the value is not YAML: {error}") from error
    return _validated(content, "--set")


def _inside(target: Any, key: str, override: str) -> Any:
    """Return what `key` names in a part of the configuration: a field, or the task of that name or number."""
    if isinstance(target, dict):
        if target.get(key) is None:
            target[key] = {}
        return target[key]
    named = [entry.get("name") for entry in target if isinstance(entry, dict)] if isinstance(target, list) else []
    if key in named:
        return target[named.index(key)]
    if key.isdecimal() and int(key) < len(named):
        return target[int(key)]
    if named:
        raise ConfigError(f"--set {override}: there is no {key!r} among: {', '.join(map(str, named))}")
    raise ConfigError(f"--set {override}: {key} is within something that has no fields; set it as a whole")


def _validated(content: Any, where: str) -> RunConfig:
    try:
        return RunConfig.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"{where}: {'; '.join(_told(fault) for fault in error.errors())}") from error


def _told(fault: Any) -> str:
    """Return one fault with its place; of an unknown field the nearest one there is, else all."""
    place = ".".join(str(part) for part in fault["loc"]) or "the file"
    if fault["type"] != "extra_forbidden":
        return f"{place}: {fault['msg']}"
    known = list(_model_at(fault["loc"][:-1]).model_fields)
    near = difflib.get_close_matches(str(fault["loc"][-1]), known)
    hint = f"did you mean {' or '.join(near)}?" if near else f"the fields are: {', '.join(known)}"
    return f"{place}: there is no such field; {hint}"


def _model_at(loc: tuple[int | str, ...]) -> type[BaseModel]:
    """Return the model whose field a place lies in."""
    found: type[BaseModel] = RunConfig
    for part in loc:
        if isinstance(part, str) and part in found.model_fields:
            models = [one for one in _types_in(found.model_fields[part].annotation) if issubclass(one, BaseModel)]
            found = models[0] if models else found
    return found


def _types_in(annotation: Any) -> list[type]:
    parts = get_args(annotation)
    return [one for part in parts for one in _types_in(part)] if parts else [annotation] * isinstance(annotation, type)
