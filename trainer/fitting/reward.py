"""Fits a reward model to preference pairs and saves it as a standard one-label sequence classifier."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from trainer.errors import ModelError
from trainer.fitting.encoding import free_pad_token
from trainer.fitting.golden import golden_pairs, write_golden
from trainer.fitting.pairs import Pair, Turns
from trainer.fitting.reward_head import accuracy_report, distinct, fit_reward_head
from trainer.fitting.reward_training import scores_of, trained, with_adapters
from trainer.fitting.stages import Stage, quiet
from wire.golden import GoldenPair

__all__ = ["REPORT", "Fitted", "RewardFit", "fit_reward_model", "read_base", "save_reward_model"]

REPORT = "training_report.json"
LEARNING_RATES = {"all": 1e-5, "lora": 1e-4}


@dataclass(frozen=True)
class RewardFit:
    """How a reward model is fitted.

    Args:
        train: all weights, LoRA adapters (merged at the end), or the head alone on a frozen backbone.
        epochs: Passes over the pairs; the head alone needs none.
        learning_rate: Of AdamW; 1e-5 for all weights and 1e-4 for LoRA by default.
        batch_size: Pairs per step.
        max_length: Tokens read of one conversation, the last ones; by default all that the model can.
        lora_rank: Rank of the adapters.
        weight_decay: Of the head alone; by default the best of three.
        seed: Of the order of pairs, and of the adapters.
    """

    train: Literal["all", "lora", "head"] = "head"
    epochs: float = 1.0
    learning_rate: float | None = None
    batch_size: int = 16
    max_length: int | None = None
    lora_rank: int = 16
    weight_decay: float | None = None
    seed: int = 0


@dataclass(frozen=True)
class Fitted:
    """What came of a fit.

    Args:
        model: A one-label sequence classifier.
        report: What training_report.json says, held-out accuracy among it.
        golden: Held-out pairs with the model's scores.
    """

    model: PreTrainedModel
    report: dict[str, Any]
    golden: Sequence[GoldenPair]


def read_base(base: str, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Returns a one-label sequence classifier on the backbone of `base`, its head zero, and its tokenizer.

    Args:
        base: Folder or hub id of a causal language model or of a reward model.
        dtype: Of the weights.

    Raises:
        ModelError: There is no such model, it has no chat template, or no token to pad with.
    """
    with quiet():
        try:
            tokenizer = AutoTokenizer.from_pretrained(base)
            tokenizer.pad_token = free_pad_token(tokenizer)
            tokenizer.padding_side = "right"
            model = AutoModelForSequenceClassification.from_pretrained(
                base, num_labels=1, pad_token_id=tokenizer.pad_token_id, dtype=dtype, ignore_mismatched_sizes=True
            )
        except (OSError, ValueError, KeyError, ImportError) as error:
            if isinstance(error, ModelError):
                raise
            first = next(iter(str(error).splitlines()), type(error).__name__)
            raise ModelError(
                f"--base {base} cannot be read as a Hugging Face model: {first}; give a folder or a hub id"
            ) from error
    if not isinstance(getattr(model, "score", None), torch.nn.Linear) or model.score.bias is not None:
        raise ModelError(
            f"--base {base}: {type(model).__name__} has no linear head named `score`; give a causal language model"
        )
    torch.nn.init.zeros_(model.score.weight)
    return model.eval(), tokenizer


def fit_reward_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[Pair],
    held_out: Sequence[Pair],
    fit: RewardFit,
    stage: Stage,
) -> Fitted:
    """Returns the fitted model, a report with held-out accuracy, and golden pairs.

    Every way begins with the head on the frozen backbone: training the rest from a random head first spoils what the
    backbone knows.

    Source: Kumar et al. (2022), "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution".
    """
    advance = stage("fitting the head", len(distinct([*pairs, *held_out])))
    report, scores = fit_reward_head(
        model, tokenizer, pairs, held_out, fit.weight_decay, max_length=fit.max_length, advance=advance
    )
    if fit.train != "head":
        before = report["held_out_pair_accuracy"]
        model, scores = _trained_further(model, tokenizer, pairs, held_out, fit, stage)
        report = accuracy_report(pairs, held_out, scores)
        report["held_out_pair_accuracy_of_the_head_alone"] = before
    dtype = str(model.dtype).removeprefix("torch.")
    golden = golden_pairs(tokenizer, held_out, scores, dtype, fit.max_length)
    settings = {name: value for name, value in asdict(fit).items() if value is not None}
    return Fitted(model.eval(), {**settings, **report, "golden_pairs": len(golden)}, golden)


def save_reward_model(fitted: Fitted, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Writes a folder that `from_pretrained` and the reward service load, with report and golden pairs."""
    fitted.model.config.use_cache = True
    fitted.model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / REPORT).write_text(json.dumps(fitted.report, indent=2) + "\n", encoding="utf-8")
    write_golden(fitted.golden, folder)


def _trained_further(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[Pair],
    held_out: Sequence[Pair],
    fit: RewardFit,
    stage: Stage,
) -> tuple[PreTrainedModel, dict[Turns, float]]:
    """Returns the model after training by gradient, and its scores of what was held out."""
    if fit.train == "lora":
        torch.manual_seed(fit.seed)
        model = with_adapters(model, fit.lora_rank)
    arguments = {
        "num_train_epochs": fit.epochs,
        "learning_rate": fit.learning_rate or LEARNING_RATES[fit.train],
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.05,
        "per_device_train_batch_size": fit.batch_size,
        # bfloat16 compute on float32 weights: small steps vanish in bfloat16 weights.
        "bf16": not torch.cuda.is_available() or torch.cuda.is_bf16_supported(),
        "use_cpu": not torch.cuda.is_available(),
        "seed": fit.seed,
    }
    steps = math.ceil(math.ceil(len(pairs) / fit.batch_size) * fit.epochs)
    with quiet():
        model = trained(model, tokenizer, pairs, arguments, fit.max_length, stage("training", steps))
    model = model.eval()
    tested = distinct(held_out)
    return model, scores_of(model, tokenizer, tested, max_length=fit.max_length, advance=stage("testing", len(tested)))
