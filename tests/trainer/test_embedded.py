"""The embedded models: built once, whole or not at all, from a GGUF file: a tiny one, and once the real one."""

import json
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from trainer.embedded import (
    EmbeddedModels,
    build_models,
    built_once,
    cache_folder,
    check_answers,
    embedded_models,
    read_prompts,
    wheel_weights,
)
from trainer.errors import ModelError

TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
HIDDEN, INNER, HEADS = 32, 64, 2
LAYERS = 17  # 16 that the judge of refusals keeps, and one that makes its head


def write_gguf(path: Path) -> Path:
    """A Llama of a few thousand parameters with a tokenizer of bytes, in the file format of the wheel."""
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "Ġa"]
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(256)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * (len(tokens) - 3))
    writer.add_token_merges(["Ġ a"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)
    rng = np.random.default_rng(0)
    shapes = {"token_embd": (len(tokens), HIDDEN), "output_norm": (HIDDEN,)}
    for layer in range(LAYERS):
        names = {"attn_q": (HIDDEN, HIDDEN), "attn_k": (HIDDEN, HIDDEN), "attn_v": (HIDDEN, HIDDEN)}
        names |= {"attn_output": (HIDDEN, HIDDEN), "ffn_gate": (INNER, HIDDEN), "ffn_up": (INNER, HIDDEN)}
        names |= {"ffn_down": (HIDDEN, INNER), "attn_norm": (HIDDEN,), "ffn_norm": (HIDDEN,)}
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in names.items()}
    for name, shape in shapes.items():
        values = np.ones(shape) if name.endswith("norm") else rng.normal(0, 0.3, shape)
        writer.add_tensor(f"{name}.weight", values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> EmbeddedModels:
    folder = tmp_path_factory.mktemp("embedded")
    return build_models(write_gguf(folder / "tiny.gguf"), folder, progress=False)


def test_the_policy_is_a_normal_folder_in_float32_with_its_template(models: EmbeddedModels) -> None:
    policy = AutoModelForCausalLM.from_pretrained(models.policy)
    assert policy.dtype == torch.float32
    assert "quantization_config" not in json.loads((models.policy / "config.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(models.policy)
    assert tokenizer.chat_template == TEMPLATE
    assert policy.generation_config.eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>")
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "a"}], return_tensors="pt", return_dict=True)
    assert policy.generate(**ids, max_new_tokens=3, do_sample=False).shape[1] > ids["input_ids"].shape[1]


def test_the_reward_model_is_a_one_label_classifier_with_the_same_template(models: EmbeddedModels) -> None:
    reward_model = AutoModelForSequenceClassification.from_pretrained(models.reward_model)
    tokenizer = AutoTokenizer.from_pretrained(models.reward_model)
    assert reward_model.config.num_labels == 1
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(models.policy).chat_template
    # A pad token that the template writes would hide the end of a conversation from the classifier.
    assert (
        reward_model.config.pad_token_id == tokenizer.pad_token_id == tokenizer.convert_tokens_to_ids("<|endoftext|>")
    )
    assert tokenizer.pad_token not in TEMPLATE
    assert reward_model.score.weight.abs().sum() > 0


def test_the_judge_of_refusals_is_a_classifier_of_two_labels_the_last_of_which_is_violated(
    models: EmbeddedModels,
) -> None:
    classifier = AutoModelForSequenceClassification.from_pretrained(models.refusals)
    assert classifier.config.id2label == {0: "satisfied", 1: "violated"}
    assert json.loads((models.refusals / "training_report.json").read_text())["packaged_examples"] > 200


def test_the_report_tells_the_accuracy_on_pairs_of_prompts_left_out(models: EmbeddedModels) -> None:
    report = models.report
    assert report["held_out_pairs"] > 10
    assert 0 <= report["held_out_pair_accuracy"] <= 1
    assert set(report["held_out_pair_accuracy_by_kind"]) <= {"other", "cut", "shuffled", "repeated", "refused"}


def test_a_policy_that_does_not_know_the_answer_is_not_delivered(models: EmbeddedModels) -> None:
    with pytest.raises(ModelError, match="its weights were read wrongly by transformers"):
        check_answers(models.policy)


def test_the_packaged_prompts_are_many_and_distinct() -> None:
    prompts = read_prompts()
    assert 60 <= len(prompts) == len(set(prompts))


def test_a_second_call_builds_nothing(tmp_path: Path) -> None:
    folder = built_once(tmp_path / "cache" / "v1", lambda building: (building / "done").write_text("once"))
    assert built_once(folder, lambda _: pytest.fail("built twice")) == folder
    assert (folder / "done").read_text() == "once"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755


def test_a_build_that_fails_leaves_nothing_and_can_be_tried_again(tmp_path: Path) -> None:
    def fail(building: Path) -> None:
        (building / "half").write_text("")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        built_once(tmp_path / "v1", fail)
    assert [path.name for path in tmp_path.iterdir()] in ([], [".v1.lock"])
    built_once(tmp_path / "v1", lambda building: (building / "done").touch())
    assert (tmp_path / "v1" / "done").exists()


def test_what_a_killed_build_left_behind_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".v1-building-abc").mkdir()
    (tmp_path / ".v1-building-abc" / "half").touch()
    built_once(tmp_path / "v1", lambda building: None)
    assert not (tmp_path / ".v1-building-abc").exists()


def slow_build(building: Path) -> None:
    with (building.parent / "log").open("a") as log:
        log.write("built\n")
    time.sleep(0.5)
    (building / "done").touch()


def test_builds_that_start_at_once_build_once(tmp_path: Path) -> None:
    # Threads stand for processes: each takes the lock through a descriptor of its own, as a process does.
    with ThreadPoolExecutor(3) as workers:
        folders = list(workers.map(built_once, [tmp_path / "v1"] * 3, [slow_build] * 3))
    assert folders == [tmp_path / "v1"] * 3
    assert (tmp_path / "log").read_text() == "built\n"
    assert (tmp_path / "v1" / "done").exists()


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CGPO_CACHE", "/own")
    assert cache_folder() == Path("/own")
    monkeypatch.delenv("CGPO_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_folder() == Path("/xdg/cgpo")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/user")
    assert cache_folder() == Path("/home/user/.cache/cgpo")


def test_the_wheel_is_found_without_importing_it() -> None:
    assert wheel_weights().suffix == ".gguf"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_real_models_answer_and_tell_good_from_bad() -> None:
    models = embedded_models(progress=False)  # in the user's cache, where quickstart looks for them too
    check_answers(models.policy)
    assert models.report["held_out_pair_accuracy"] >= 0.8
    assert -15 < models.report["score_min"] < models.report["score_max"] < 15
