"""The commands `cgpo fit-reward` and `cgpo fit-judge`."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from trainer.errors import ConfigError
from trainer.evaluation import options
from trainer.evaluation.columns import parse_columns
from trainer.evaluation.options import make_console
from trainer.evaluation.table_files import TableFile

__all__ = ["fit_judge", "fit_reward"]

EMBEDDED = "embedded"

Base = Annotated[str, typer.Option("--base", help="folder or hub id of a causal language model; embedded: our own")]
Folder = Annotated[Path, typer.Option("--output", metavar="FOLDER", help="where the model is written")]
Replace = Annotated[bool, typer.Option("--overwrite", help="write into a folder that is not empty")]
HeldOut = Annotated[float, typer.Option("--held-out", min=0, max=0.9, help="share of prompts to test on")]
Seed = Annotated[int, typer.Option("--seed", help="of the choice of what is held out, and of training")]


def fit_reward(
    file: Annotated[Path, typer.Argument(help="pairs: JSONL, Parquet, or the folder of a Hugging Face dataset")],
    output: Folder,
    base: Base = EMBEDDED,
    train: Annotated[Literal["all", "lora", "head"], typer.Option(help="which weights are trained")] = "head",
    epochs: Annotated[float, typer.Option(min=0.01, help="passes over the pairs (all, lora)")] = 1.0,
    learning_rate: Annotated[float | None, typer.Option(help="by default 1e-5 (all) or 1e-4 (lora)")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="pairs per step (all, lora)")] = 16,
    max_length: Annotated[int | None, typer.Option(min=8, help="tokens read of one conversation, the last")] = None,
    lora_rank: Annotated[int, typer.Option(min=1, help="rank of the adapters (lora)")] = 16,
    weight_decay: Annotated[float | None, typer.Option(min=0, help="of the head; by default the best of 3")] = None,
    held_out: HeldOut = 0.1,
    columns: options.ColumnNames = None,
    split: options.Split = None,
    limit: options.Limit = None,
    seed: Seed = 0,
    overwrite: Replace = False,
) -> None:
    """Fit a reward model to preference pairs (Bradley-Terry), for `reward-service --model FOLDER`."""
    _check_folder(output, overwrite)
    from trainer.fitting.pairs import PairReader, split_by_prompt

    reader = PairReader(parse_columns(columns))
    pairs = reader.read(islice(TableFile(file, split).rows(), limit))
    fitted, tested = split_by_prompt(pairs, held_out, seed)
    console, started = make_console(), time.monotonic()
    left_out = f"; left out: {reader.num_ties} ties, {reader.num_contradicted} that their scores contradict"
    console.print(f"{len(fitted)} pairs to fit to, {len(tested)} of other prompts to test on{left_out}")
    import torch

    from trainer.fitting.reward import RewardFit, fit_reward_model, read_base, save_reward_model
    from trainer.fitting.stages import stages

    fit = RewardFit(
        train=train, epochs=epochs, learning_rate=learning_rate, batch_size=batch_size, max_length=max_length,
        lora_rank=lora_rank, weight_decay=weight_decay, seed=seed,
    )  # fmt: skip
    # What is trained needs float32: small steps vanish in bfloat16. What is only read does not.
    model, tokenizer = read_base(_folder_of(base), torch.bfloat16 if train == "head" else torch.float32)
    with stages(True) as stage:
        done = fit_reward_model(model, tokenizer, fitted, tested, fit, stage)
    report = {**done.report, "base": base, "seconds": round(time.monotonic() - started, 1)}
    save_reward_model(replace(done, report=report), tokenizer, output)
    names = ("train", "pairs", "pair_accuracy", "held_out_pairs", "held_out_pair_accuracy",
             "held_out_pair_accuracy_of_the_head_alone", "score_mean_chosen", "score_mean_rejected", "score_min",
             "score_max", "golden_pairs", "seconds")  # fmt: skip
    by_kind = {f"held out, {kind}": value for kind, value in report["held_out_pair_accuracy_by_kind"].items()}
    console.print(_table({name: report[name] for name in names if name in report} | by_kind))
    console.print(f"written: {output}; serve it: reward-service --model {output}", soft_wrap=True)


def fit_judge(
    output: Folder,
    file: Annotated[Path | None, typer.Argument(help="labelled completions: JSONL, Parquet, or a folder")] = None,
    label: Annotated[str | None, typer.Option(help="column of the label")] = None,
    violated: Annotated[str | None, typer.Option(metavar="VALUE,...", help="labels that mean violated")] = None,
    packaged: Annotated[bool, typer.Option(help="add the packaged examples of refusals, or fit to them alone")] = False,
    base: Base = EMBEDDED,
    layers: Annotated[int, typer.Option(min=1, help="layers of the base that are kept below the head")] = 16,
    max_chars: Annotated[int, typer.Option(min=16, max=100_000, help="characters read of a completion")] = 500,
    held_out: HeldOut = 0.2,
    columns: options.ColumnNames = None,
    split: options.Split = None,
    limit: options.Limit = None,
    seed: Seed = 0,
    overwrite: Replace = False,
) -> None:
    """Fit a classifier judge to labelled completions, for `reward-service --model FOLDER` and its `/classify`."""
    _check_folder(output, overwrite)
    rows = _labelled(file, label, violated, packaged, columns, split, limit)
    console, started = make_console(), time.monotonic()
    from trainer.fitting.judge import JudgeFit, classifier_on, save_judge
    from trainer.fitting.judge import fit_judge as fit_classifier
    from trainer.fitting.labelled import packaged_refusals, split_by_group
    from trainer.fitting.stages import stages

    fit = JudgeFit(layers=layers, max_chars=max_chars)
    fitted, tested = split_by_group(rows, held_out, seed)
    extra = packaged_refusals() if packaged else []
    console.print(f"{len(fitted)} completions to fit to, {len(extra)} packaged ones, {len(tested)} to test on")
    model, tokenizer = classifier_on(_folder_of(base), fit)
    with stages(True) as stage:
        report = fit_classifier(model, tokenizer, fitted, tested, fit, stage, extra)
    report = {**report, "base": base, "label": label, "violated_values": violated}
    report["seconds"] = round(time.monotonic() - started, 1)
    save_judge(model, tokenizer, report, output)
    for name in ("cross_validated", "held_out"):
        if report.get(name):
            console.print(f"{name.replace('_', ' ')}, by prompt; violated is the positive class:")
            console.print(_table(report[name]))
    console.print(
        f"{report['seconds']} s; written: {output}; serve it: reward-service --model {output}", soft_wrap=True
    )


def _labelled(
    file: Path | None, label: str | None, violated: str | None, packaged: bool, columns: str | None,
    split: str | None, limit: int | None,
) -> Sequence[Any]:  # fmt: skip
    """Returns the labelled completions of a file; none without one."""
    from trainer.fitting.labelled import LabelReader

    if file is None:
        if not packaged:
            raise ConfigError("there is nothing to fit to: give a FILE with --label and --violated, or --packaged")
        return []
    if label is None or violated is None:
        raise ConfigError("a FILE needs --label COLUMN and --violated VALUE,VALUE: which labels mean violated")
    values = [value.strip() for value in violated.split(",")]
    return LabelReader(label, values, parse_columns(columns)).read(islice(TableFile(file, split).rows(), limit))


def _folder_of(base: str) -> str:
    if base != EMBEDDED:
        return base
    from trainer.embedded import embedded_models

    return str(embedded_models().policy)


def _check_folder(folder: Path, overwrite: bool) -> None:
    if folder.is_file():
        raise ConfigError(f"--output {folder} is a file; name a folder")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise ConfigError(f"--output {folder} is not empty; give --overwrite, or another folder")


def _table(figures: Mapping[str, Any]) -> Table:
    table = Table()
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in figures.items():
        table.add_row(name.replace("_", " "), f"{value:.4f}" if isinstance(value, float) else str(value))
    return table
