"""Fits a classifier judge to labelled completions: the lower layers of a language model, frozen, and a head.

The head is a logistic regression on the mean over tokens of one layer's hidden states, saved as part of a standard
two-label sequence classifier (`trainer.fitting.pooling`). Nothing random is in it, and it takes one forward pass.

It is fitted and tested as the judge service asks it: each completion is read whole and its first paragraph by itself
(`wire.readings`), and the reading that is more likely violated decides.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import f1_score, log_loss, precision_score, recall_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForSequenceClassification, PreTrainedTokenizerFast

from trainer.errors import ModelError
from trainer.fitting.encoding import sorted_batches
from trainer.fitting.labelled import Labelled
from trainer.fitting.pooling import PooledHead, mean_features, write_pooling_layer
from trainer.fitting.stages import Stage, quiet
from trainer.fitting.text_reading import reading_tokenizer
from wire.readings import readings

__all__ = ["LABELS", "JudgeFit", "classifier_on", "fit_judge", "probabilities_of", "save_judge"]

LABELS = {0: "satisfied", 1: "violated"}
REPORT = "training_report.json"
INVERSE_PENALTIES = (0.0003, 0.001, 0.003, 0.01, 0.03)
"""scikit-learn's C, on standardised features: the head that cross-validates best is taken."""
FOLDS = 5
WEIGHTS = "logisticregression__sample_weight"


@dataclass(frozen=True)
class JudgeFit:
    """How a classifier judge is fitted.

    Args:
        layers: How many of the base's layers are kept below the head.
        max_chars: Characters read of a completion, from its beginning on.
        batch_size: Completions in one forward pass.
    """

    layers: int = 16
    max_chars: int = 500
    batch_size: int = 32


@dataclass(frozen=True)
class Readings:
    """What a head is fitted to, R readings of completions.

    Args:
        features_RH: Mean features as the pooling layer will see them.
        violated_R: The label of the completion.
        groups_R: What must not be fitted to and tested on at once.
        weights_R: What a reading counts; 1 for all readings of a completion together.
    """

    features_RH: NDArray[np.float64]
    violated_R: NDArray[np.bool_]
    groups_R: NDArray[np.str_]
    weights_R: NDArray[np.float64]


def classifier_on(
    base: str, fit: JudgeFit, dtype: torch.dtype = torch.bfloat16
) -> tuple[LlamaForSequenceClassification, PreTrainedTokenizerFast]:
    """Returns a two-label classifier on the base's lower layers, with one more for the head, and its tokenizer.

    Raises:
        ModelError: There is no such model, it is no Llama, or it has fewer layers.
    """
    with quiet():
        try:
            tokenizer = reading_tokenizer(AutoTokenizer.from_pretrained(base), fit.max_chars)
            model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
        except (OSError, KeyError, ImportError) as error:
            first = next(iter(str(error).splitlines()), type(error).__name__)
            raise ModelError(f"--base {base} cannot be read: {first}; give a folder or a hub id") from error
    config = model.config
    if config.model_type != "llama" or config.attention_bias:
        raise ModelError(f"--base {base} is a {config.model_type} model; the head is made for Llama without biases")
    if config.num_hidden_layers <= fit.layers:
        raise ModelError(
            f"--layers {fit.layers}: {base} has {config.num_hidden_layers} layers, and one of them makes the head; "
            f"keep at most {config.num_hidden_layers - 1}"
        )
    fields = {**config.to_dict(), "num_hidden_layers": fit.layers + 1, "pad_token_id": tokenizer.pad_token_id}
    for name in ("architectures", "_name_or_path", "id2label", "label2id", "layer_types"):
        fields.pop(name, None)
    small = type(config)(**fields, id2label=LABELS, label2id={name: label for label, name in LABELS.items()})
    kept = {f"model.{name}": weight for name, weight in model.model.state_dict().items() if _is_kept(name, fit.layers)}
    kept["score.weight"] = torch.zeros(2, small.hidden_size, dtype=dtype)
    with quiet():
        classifier = LlamaForSequenceClassification.from_pretrained(None, config=small, state_dict=kept, dtype=dtype)
    return classifier.to("cuda" if torch.cuda.is_available() else "cpu").eval(), tokenizer


def fit_judge(
    model: LlamaForSequenceClassification,
    tokenizer: PreTrainedTokenizerFast,
    rows: Sequence[Labelled],
    held_out: Sequence[Labelled],
    fit: JudgeFit,
    stage: Stage,
    extra: Sequence[Labelled] = (),
) -> dict[str, Any]:
    """Sets the head from `rows` and returns a report on `held_out`; violated is the positive class.

    Args:
        model: As `classifier_on` makes it.
        tokenizer: Its tokenizer.
        rows: Fitted to; how well is cross-validated, no prompt being fitted to and tested on at once.
        held_out: Tested on once, by the finished model.
        fit: Settings.
        stage: Shows what is under way.
        extra: Packaged examples, fitted to too and never tested on.
    """
    given = (*rows, *extra)
    texts, owner_R = _readings([one.completion for one in given], fit.max_chars)
    features_RH = _features(model, tokenizer, texts, fit, stage)
    violated = np.array([one.violated for one in given])
    groups = np.array([one.group for one in given])
    # A completion counts once, however often it is read.
    weights_R = 1.0 / np.bincount(owner_R)[owner_R]
    data = Readings(features_RH, violated[owner_R], groups[owner_R], weights_R)
    penalty, fold_probabilities = _best_penalty(data)
    write_pooling_layer(model, _head(data, penalty))
    report: dict[str, Any] = {
        "rows": len(rows),
        "packaged_examples": len(extra),
        "layers": fit.layers,
        "max_chars": fit.max_chars,
        "C": penalty,
    }
    if rows:
        found = _of_completions(fold_probabilities, owner_R)[: len(rows)]
        report["cross_validated"] = figures(violated[: len(rows)], found)
    if held_out:
        texts, owner_R = _readings([one.completion for one in held_out], fit.max_chars)
        found = _of_completions(probabilities_of(model, tokenizer, texts, fit, stage), owner_R)
        report["held_out"] = figures(np.array([one.violated for one in held_out]), found)
    return report


def figures(violated: NDArray[np.bool_], probabilities: NDArray[np.float64]) -> dict[str, float | int]:
    """Returns how well probabilities of violated tell what is violated, at one half."""
    said = probabilities > 0.5
    return {
        "rows": len(violated),
        "violated": int(violated.sum()),
        "precision": float(precision_score(violated, said, zero_division=0)),
        "recall": float(recall_score(violated, said, zero_division=0)),
        "f1": float(f1_score(violated, said, zero_division=0)),
        "accuracy": float((said == violated).mean()),
    }


@torch.inference_mode()
def probabilities_of(
    model: LlamaForSequenceClassification,
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[str],
    fit: JudgeFit,
    stage: Stage,
) -> NDArray[np.float64]:
    """Returns the finished model's probability of violated for each text."""
    probabilities, advance = np.empty(len(texts)), stage("testing", len(texts))
    for chosen, batch in sorted_batches(model, _rows(tokenizer, texts), fit.batch_size):
        logits = model(**batch, use_cache=False).logits.float()
        probabilities[chosen] = logits.softmax(dim=-1)[:, 1].cpu().numpy()
        advance(len(chosen))
    return probabilities


def save_judge(
    model: LlamaForSequenceClassification, tokenizer: PreTrainedTokenizerFast, report: dict[str, Any], folder: Path
) -> None:
    """Writes a folder that `from_pretrained` and the reward service load, the report beside it."""
    with quiet():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / REPORT).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _readings(completions: Sequence[str], max_chars: int) -> tuple[list[str], NDArray[np.intp]]:
    """Returns the texts that the model reads, and for each the number of its completion; alike beginnings are one."""
    read = [list(dict.fromkeys(text[:max_chars] for text in readings(one))) for one in completions]
    owner_R = np.repeat(np.arange(len(read)), [len(texts) for texts in read])
    return [text for texts in read for text in texts], owner_R


def _of_completions(probabilities_R: NDArray[np.float64], owner_R: NDArray[np.intp]) -> NDArray[np.float64]:
    """Returns the probability of violated of each completion: that of its reading which has most of it."""
    found = np.zeros(int(owner_R.max()) + 1)
    np.maximum.at(found, owner_R, probabilities_R)
    return found


def _is_kept(name: str, layers: int) -> bool:
    parts = name.split(".")
    return parts[0] != "layers" or int(parts[1]) <= layers


def _rows(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[list[int]]:
    # A text without a token has none that could be classified; what is empty a judge refuses before it asks.
    return [
        ids or [tokenizer.convert_tokens_to_ids(tokenizer.eos_token)] for ids in tokenizer(list(texts))["input_ids"]
    ]


@torch.inference_mode()
def _features(
    model: LlamaForSequenceClassification,
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[str],
    fit: JudgeFit,
    stage: Stage,
) -> NDArray[np.float64]:
    """Returns the mean feature of each text as the pooling layer will see it: shape (texts, hidden size)."""
    features, advance = np.empty((len(texts), model.config.hidden_size)), stage("reading", len(texts))
    for chosen, batch in sorted_batches(model, _rows(tokenizer, texts), fit.batch_size):
        hidden = model.model(**batch, use_cache=False, output_hidden_states=True).hidden_states[fit.layers]
        means = mean_features(hidden, batch["attention_mask"], model.config.rms_norm_eps)
        features[chosen] = means.cpu().numpy()
        advance(len(chosen))
    return features


def _best_penalty(data: Readings) -> tuple[float, NDArray[np.float64]]:
    """Returns the penalty with the least cross-validated log loss, and its probabilities of violated."""
    folds = min(FOLDS, len(set(data.groups_R)))
    if folds < 2:
        raise ModelError("all rows answer one prompt, so nothing can be held out; give completions to more prompts")
    found = {}
    for penalty in INVERSE_PENALTIES:
        found[penalty] = cross_val_predict(
            _regression(penalty), data.features_RH, data.violated_R, groups=data.groups_R, method="predict_proba",
            cv=GroupKFold(folds, shuffle=True, random_state=0), params={WEIGHTS: data.weights_R},
        )[:, 1]  # fmt: skip
    losses = {
        penalty: log_loss(data.violated_R, probabilities, sample_weight=data.weights_R)
        for penalty, probabilities in found.items()
    }
    best = min(losses, key=losses.__getitem__)
    return best, found[best]


def _head(data: Readings, penalty: float) -> PooledHead:
    fitted = _regression(penalty).fit(data.features_RH, data.violated_R, **{WEIGHTS: data.weights_R})
    scaler, regression = fitted[0], fitted[1]
    weight = regression.coef_[0] / scaler.scale_
    constant = Ridge(alpha=1e-3, fit_intercept=False).fit(data.features_RH, np.ones(len(data.features_RH)))
    return PooledHead(weight, float(regression.intercept_[0] - weight @ scaler.mean_), constant.coef_)


def _regression(penalty: float) -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression(C=penalty, max_iter=1000))
