"""One run: evaluate, train, evaluate, and leave a run folder behind.

RUN/config.json               every setting
RUN/metrics.jsonl             one line per log
RUN/ledger.jsonl              one line per step: what was sent to each judge and came back, and who answered
RUN/completions/*.parquet     every completion with its verdicts, scores and log-ratios
RUN/model/                    the trained policy with its model card, as `from_pretrained` loads it
"""

import contextlib
import difflib
import json
import logging
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

from rich.console import Console

from trainer.credentials import service_token
from trainer.dataset_source import load_rows
from trainer.errors import ConfigError
from trainer.processes import is_first_process
from trainer.run_config import JudgeEntry, RunConfig
from trainer.run_table import comparison

__all__ = ["check", "run", "training_arguments"]


def training_arguments(settings: dict[str, Any], output_dir: Path) -> Any:
    """Return the `CGPOConfig` of a run.

    Raises:
        ConfigError: a setting that is not a field of `CGPOConfig`, or whose value is wrong.
    """
    from trainer.config import CGPOConfig

    known = {field.name: field.type for field in fields(CGPOConfig) if field.init}
    unknown = sorted(set(settings) - set(known))
    if unknown:
        near = difflib.get_close_matches(unknown[0], known)
        hint = f"did you mean {' or '.join(near)}?" if near else "see `help(trainer.CGPOConfig)` for those there are"
        raise ConfigError(f"training.{unknown[0]}: CGPOConfig has no such field; {hint}")
    if "output_dir" in settings:
        raise ConfigError("training.output_dir: the run folder is not part of the file; give it as --output")
    settings = {name: _as_number(value, str(known[name])) for name, value in settings.items()}
    # The bar is ours (RunProgress); the settings that follow are a run's, not a library's.
    defaults = {"report_to": "none", "logging_steps": 1, "save_strategy": "no", "disable_tqdm": False}
    try:
        return CGPOConfig(**{**defaults, **settings, "output_dir": str(output_dir)})
    except (TypeError, ValueError) as error:
        raise ConfigError(f"training: {error}") from error


def _as_number(value: Any, annotation: str) -> Any:
    """Return text that stands for a number as the number: to YAML, 1e-5 without a point is text."""
    if isinstance(value, str) and "float" in annotation:
        with contextlib.suppress(ValueError):
            return float(value)
    return value


def check(config: RunConfig, output_dir: Path, resume: bool = False) -> tuple[Any, list[Any]]:
    """Return the settings and the tasks of a run, after looking for all that can be found without a model or a service.

    Raises:
        CGPOError: a setting, a task, a dataset or the run folder cannot work.
    """
    args = training_arguments(config.training, output_dir)
    _check_folder(output_dir, resume)
    return args, _tasks(config, args)


def run(config: RunConfig, output_dir: Path, console: Console, resume: bool = False) -> dict[str, float]:
    """Train as the configuration says, print the table of before and after, and return the last metrics.

    Args:
        config: the run; `judge_url` and `reward_url` are given.
        output_dir: the run folder.
        console: where the table goes.
        resume: go on from the folder's last checkpoint.

    Raises:
        CGPOError: something does not fit together; raised before the first step.
    """
    if not config.judge_url or not config.reward_url:
        missing = "judge_url" if not config.judge_url else "reward_url"
        raise ConfigError(f"{missing} is not set; give --{missing.replace('_', '-')} or write it into the file")
    args, tasks = check(config, output_dir, resume)
    trainer = _trainer(config, args, tasks)
    if is_first_process():
        output_dir.mkdir(parents=True, exist_ok=True)
        settings = {**config.model_dump(), "training": args.to_dict()}
        (output_dir / "config.json").write_text(json.dumps(settings, indent=2, default=str), encoding="utf-8")
    try:
        before = _evaluate(trainer, console, "before") if trainer.eval_dataset else {}
        trainer.train(resume_from_checkpoint=resume or None)
        after = _evaluate(trainer, console, "after") if trainer.eval_dataset else {}
        trainer.save_model(str(output_dir / "model"))
        if args.should_save:
            from trainer.model_card import write_model_card

            write_model_card(output_dir / "model", config.model, trainer, before, after)
    finally:
        trainer.scoring.close()
        if args.rollout == "vllm":
            trainer.sampler.close()
    if after:
        console.print(comparison(before, after, {name: task.mixture.labels for name, task in trainer.tasks.items()}))
    console.print(f"run folder: {output_dir}", soft_wrap=True, markup=False)
    return after


def _check_folder(output_dir: Path, resume: bool) -> None:
    """Refuse to resume where there is no checkpoint, and to write a second run over a first."""
    from trainer.checkpoints import last_checkpoint

    if resume and last_checkpoint(output_dir) is None:
        raise ConfigError(
            f"--resume: there is no checkpoint in {output_dir}; a run writes them with training.save_strategy=steps "
            "and training.save_steps=N, or when an outage ends it. To begin anew, leave --resume out"
        )
    if not resume and (output_dir / "metrics.jsonl").exists():
        raise ConfigError(f"{output_dir} holds a run already; give another --output, or --resume to go on with it")


def _evaluate(trainer: Any, console: Console, when: str) -> dict[str, float]:
    """Return the metrics on the held-out prompts; the bar begins to move only after the first batch."""
    console.print(f"    evaluating {len(trainer.eval_dataset)} held-out prompts {when} training")
    metrics: dict[str, float] = trainer.evaluate()
    return metrics


def _tasks(config: RunConfig, args: Any) -> list[Any]:
    """Return the tasks of a run, their rows read; a run without `tasks` is one."""
    from trainer import MixtureOfConstraintJudges, RemoteJudge, RemoteRewardModel, Task
    from trainer.task import batch_sizes

    token = service_token()

    def task(name: str, entries: list[JudgeEntry], train: str, held_out: str | None, **settings: Any) -> Task:
        judges = [RemoteJudge(entry.name, config.judge_url or (), token=token, **entry.parameters) for entry in entries]
        return Task(
            name=name,
            train_dataset=load_rows(train),
            eval_dataset=load_rows(held_out) if held_out else None,
            mixture_of_judges=MixtureOfConstraintJudges(judges),
            **settings,
        )

    if not config.tasks:
        return [task("default", config.entries(), config.train_dataset, config.eval_dataset)]
    made = []
    for one in config.tasks:
        reward_model = RemoteRewardModel(one.reward_url, token=token) if one.reward_url else None
        settings = {**one.settings(), "reward_model": reward_model}
        made.append(task(one.name, one.entries(), one.train_dataset, one.eval_dataset, **settings))
    for one in made:
        one.settings(args)
    batch_sizes(made, args.train_batch_size * args.gradient_accumulation_steps * args.world_size)
    return made


def _trainer(config: RunConfig, args: Any, tasks: list[Any]) -> Any:
    """Return the trainer of a run, with the models it names."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, ProgressCallback
    from transformers.utils import logging as transformers_logging

    from trainer import CGPOTrainer, RemoteRewardModel
    from trainer.progress import RunProgress

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.basicConfig(level=logging.WARNING)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()  # of loading and saving; a run has its own
    source = config.model
    if source == "embedded":
        from trainer.embedded import embedded_models

        source = str(embedded_models().policy)
    try:
        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise ConfigError(f"model: cannot load {source!r}: {error}") from error
    peft_config = None
    if config.peft is not None:
        from peft import LoraConfig

        try:
            peft_config = LoraConfig(**{"task_type": "CAUSAL_LM", **config.peft})
        except TypeError as error:
            raise ConfigError(f"peft: {error}") from error
    trainer = CGPOTrainer(
        model=model,
        reward_model=RemoteRewardModel(config.reward_url, token=service_token()),
        args=args,
        processing_class=tokenizer,
        tasks=tasks,
        peft_config=peft_config,
    )
    trainer.remove_callback(ProgressCallback)
    if not args.disable_tqdm:
        trainer.add_callback(RunProgress)
    return trainer
