"""Classifier judges: the pooling layer computes the fitted head, exactly and for any batch; the beginning is read."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, LlamaForSequenceClassification

from trainer.errors import ConfigError, DatasetError, ModelError
from trainer.fitting.judge import (
    JudgeFit,
    _of_completions,
    _readings,
    classifier_on,
    figures,
    fit_judge,
    probabilities_of,
    save_judge,
)
from trainer.fitting.labelled import Labelled, LabelReader, packaged_refusals
from trainer.fitting.pooling import PooledHead, mean_features, write_pooling_layer
from trainer.fitting.stages import stages
from trainer.fitting.text_reading import reading_tokenizer

FIT = JudgeFit(layers=2, max_chars=40, batch_size=4)


def rows(number: int) -> list[Labelled]:
    return [
        Labelled(f"p{i // 2}", f"Sorry, no {i}." if i % 2 else f"Sure: {i} and more {'x' * (i % 7)}", bool(i % 2))
        for i in range(number)
    ]


def test_the_written_layer_computes_weight_times_mean_plus_bias(base_folder: Path) -> None:
    model, tokenizer = classifier_on(str(base_folder), FIT, torch.float32)
    batch = tokenizer(["Sorry, no.", "Sure: here you are, friend", "a"], padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model.model(**batch, output_hidden_states=True).hidden_states[2]
        mean = mean_features(hidden, batch["attention_mask"], model.config.rms_norm_eps).double().numpy()
        weight = np.random.default_rng(0).normal(0, 0.1, mean.shape[1])
        # Three means, 48 dimensions: a functional that is 1 on all three exists.
        one = np.linalg.lstsq(mean, np.ones(3), rcond=None)[0]
        write_pooling_layer(model, PooledHead(weight, 0.3, one))
        logits = model(**batch).logits.double().numpy()
    # Linear up to the head's span: z / sqrt(z^2 + 1) for z = log-odds / 30 is z within half a thousandth here.
    np.testing.assert_allclose(logits[:, 1] - logits[:, 0], mean @ weight + 0.3, rtol=5e-3, atol=5e-3)


def test_a_fitted_judge_is_a_standard_classifier_that_says_the_same_whatever_the_batch(
    base_folder: Path, tmp_path: Path
) -> None:
    model, tokenizer = classifier_on(str(base_folder), FIT, torch.float32)
    with stages(False) as stage:
        report = fit_judge(model, tokenizer, rows(40), rows(60)[40:], FIT, stage)
        together = probabilities_of(model, tokenizer, [one.completion for one in rows(8)], FIT, stage)
    assert report["cross_validated"]["f1"] == report["held_out"]["f1"] == 1.0
    save_judge(model, tokenizer, report, tmp_path / "judge")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "judge").eval()
    own = AutoTokenizer.from_pretrained(tmp_path / "judge")
    assert type(loaded) is LlamaForSequenceClassification
    assert loaded.config.id2label == {0: "satisfied", 1: "violated"}
    assert loaded.config.num_hidden_layers == 3
    assert [path.suffix for path in (tmp_path / "judge").glob("model*")] == [".safetensors"]
    for one, expected in zip(rows(8), together, strict=True):
        with torch.no_grad():
            alone = loaded(**own(one.completion, return_tensors="pt")).logits.softmax(-1)[0, 1].item()
        assert alone == pytest.approx(expected, abs=1e-4)
        assert (alone > 0.5) == one.violated
    assert json.loads((tmp_path / "judge" / "training_report.json").read_text())["rows"] == 40


def test_a_completion_is_read_whole_and_by_its_first_paragraph_and_the_worse_reading_counts() -> None:
    texts, owner_R = _readings(["No.\n\nBut here is more.", "Sure.", "a" * 50 + "\n\nb"], max_chars=40)
    # Within 40 characters the third is one reading: its first paragraph is longer than that.
    assert texts == ["No.\n\nBut here is more.", "No.", "Sure.", "a" * 40]
    assert owner_R.tolist() == [0, 0, 1, 2]
    assert _of_completions(np.array([0.2, 0.9, 0.1, 0.4]), owner_R).tolist() == [0.9, 0.1, 0.4]


def test_the_tokenizer_reads_the_beginning_without_what_is_hidden(
    base_folder: Path, byte_tokenizer: object, tmp_path: Path
) -> None:
    reading_tokenizer(byte_tokenizer, max_chars=8).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)

    def read(text: str) -> str:
        return tokenizer.decode(tokenizer(text)["input_ids"])

    assert read(" \n Sorry, but no.\nNever.") == "Sorry, b"
    assert read("So\u200brr\u00ady\n, b") == "Sorry\n, "
    assert read("<|im_end|>") == "<|im_end"  # as text: the token itself is not among the ids
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") not in tokenizer("<|im_end|>")["input_ids"]
    assert tokenizer.pad_token == "<|endoftext|>"


def test_a_base_that_cannot_be_cut_is_refused(base_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has 3 layers, and one of them makes the head; keep at most 2"):
        classifier_on(str(base_folder), JudgeFit(layers=3))
    with pytest.raises(ModelError, match="cannot be read"):
        classifier_on(str(tmp_path / "missing"), FIT)


def test_labels_are_read_by_their_values() -> None:
    reader = LabelReader("label", ["full", "partial"], {"completion": "answer"})
    given = [
        {"prompt": "a", "answer": "no", "label": "full"},
        {"prompt": [{"role": "user", "content": "b"}], "answer": "perhaps", "label": "partial"},
        {"prompt": "c", "answer": [{"role": "assistant", "content": "yes"}], "label": "fine"},
        {"prompt": "d", "answer": "?", "label": None},
    ]
    assert reader.read(given) == [
        Labelled("a", "no", True),
        Labelled("b", "perhaps", True),
        Labelled("c", "yes", False),
    ]
    turns = [{"role": "user", "content": "e"}, {"role": "assistant", "content": "ok"}]
    messages = [{"messages": turns, "label": 0}, {"messages": turns, "label": 1}]
    assert LabelReader("label", ["1"]).read(messages) == [Labelled("e", "ok", False), Labelled("e", "ok", True)]


@pytest.mark.parametrize(
    ("reader", "error", "message"),
    [
        (LabelReader("verdict", ["no"]), ConfigError, "--label verdict: row 0 has no such column; it has: prompt"),
        (
            LabelReader("label", ["maybe"]),
            ConfigError,
            "--violated maybe: no row has such a label; its values are: ",
        ),
        (LabelReader("label", ["no"]), ConfigError, "all 1 rows are of one class"),
        (LabelReader("label", ["no"], {"completion": "x"}), DatasetError, "row 0 has no `completion`"),
    ],
)
def test_what_cannot_be_read_is_named(reader: LabelReader, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        reader.read([{"prompt": "a", "completion": "b", "label": "no"}])


def test_the_packaged_examples_are_distinct_and_of_both_classes() -> None:
    examples = packaged_refusals()
    texts = [one.completion for one in examples]
    assert len(set(texts)) == len(texts)
    refusals = sum(one.violated for one in examples)
    assert refusals > 100
    assert len(examples) - refusals > 70
    assert examples == packaged_refusals()


def test_figures_count_violated_as_positive() -> None:
    # Said violated: rows 0, 1 and 3; truly so: 0, 1 and 2: precision 2/3, recall 2/3, F1 2/3.
    told = figures(np.array([True, True, True, False]), np.array([0.9, 0.6, 0.2, 0.7]))
    assert (told["precision"], told["recall"], told["f1"]) == (pytest.approx(2 / 3),) * 3
    assert told["accuracy"] == 0.5
