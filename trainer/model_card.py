"""The model card of a trained policy: what it was made from and how, as `README.md` beside its weights."""

import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

__all__ = ["model_card", "write_model_card"]

TITLES = (
    ("satisfied", "constraint/satisfied_rate", "{:.1%}"),
    ("mean score", "score/mean", "{:.3f}"),
    ("mean log-ratio, nats", "kl/mean", "{:.3f}"),
    ("unknown", "judge/unknown_rate", "{:.1%}"),
)
SETTINGS = (
    "learning_rate", "max_steps", "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps",
    "clamp_kl_factor", "advantage_baseline", "missing_eos_penalty", "seed",
)  # fmt: skip


def write_model_card(
    folder: Path, base_model: str, trainer: Any, before: Mapping[str, float], after: Mapping[str, float]
) -> None:
    """Write the card of a run's policy into the folder in which it was saved.

    Args:
        folder: of the saved model.
        base_model: what was trained: a hub id or a folder.
        trainer: the `CGPOTrainer`, after training.
        before: metrics of the evaluation before training; empty without one.
        after: the same, after it.
    """
    model_card(base_model, trainer, before, after).save(folder / "README.md")


def model_card(base_model: str, trainer: Any, before: Mapping[str, float], after: Mapping[str, float]) -> ModelCard:
    """Return the card: base model, method, judges and reward model with their versions, settings, figures."""
    name = Path(base_model).name  # a folder of this machine says nothing elsewhere
    is_hub_id = base_model.count("/") == 1 and not base_model.startswith((".", "/"))
    known_base = base_model if is_hub_id else None
    data = ModelCardData(base_model=known_base, library_name="transformers", tags=["cgpo", "rlhf"])
    parts = [
        f"---\n{data.to_yaml()}\n---\n",
        f"# {name}, trained by CGPO\n",
        f"`{name}` after {trainer.state.global_step} steps of Constrained Generative Policy Optimization "
        "([arXiv 2409.20370](https://arxiv.org/abs/2409.20370)): a completion that breaks a constraint earns nothing, "
        f"however high its score. Made with cgpo {importlib.metadata.version('cgpo')}.\n",
        "## Tasks\n",
        _table(("task", "update", "k", "kl_threshold", "judges"), [_task(*item) for item in trainer.tasks.items()]),
        "## Who judged\n",
        _table(("judge or reward model", "versions"), [(n, ", ".join(v)) for n, v in trainer.versions.known.items()]),
        "## Settings\n",
        _table(("setting", "value"), [(name, getattr(trainer.args, name)) for name in SETTINGS]),
    ]
    if before and after:
        parts += [
            f"## Before and after\n\nOn held-out prompts, {after.get('eval_num/sent', 0):.0f} completions.\n",
            _table(("", "before", "after"), _figures(before, after)),
        ]
    return ModelCard("\n".join(parts))


def _task(name: str, task: Any) -> tuple[Any, ...]:
    judges = ", ".join(_judge(*item) for item in task.mixture.judges.items()) or "none"
    loss = getattr(task.loss, "__name__", type(task.loss).__name__).rpartition(".")[2]
    return name, loss, task.k, task.loss_settings.kl_threshold, judges


def _judge(label: str, judge: Any) -> str:
    given = ", ".join(f"{name}={value!r}" for name, value in getattr(judge, "parameters", {}).items())
    return f"{label} ({given})" if given else label


def _figures(before: Mapping[str, float], after: Mapping[str, float]) -> list[tuple[str, str, str]]:
    rows = []
    for title, metric, form in TITLES:
        for name in sorted(name for name in after if name.startswith("eval_") and name.endswith(metric)):
            where = name.removeprefix("eval_").removesuffix(metric).strip("/")
            values = [form.format(one[name]) if name in one else "-" for one in (before, after)]
            rows.append((f"{title} ({where})" if where else title, *values))
    return rows


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(str(cell).replace('|', '/') for cell in line)} |\n" for line in lines)
