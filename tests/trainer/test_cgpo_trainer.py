"""The trainer end to end on tiny models: bad input, odd tokenizers, services, baselines, evaluation, files."""

from pathlib import Path

import pyarrow.dataset
import pytest
import torch
from peft import LoraConfig
from torch.nn.utils import parameters_to_vector
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, TrainerCallback

from trainer import RemoteJudge, RemoteRewardModel
from trainer.errors import ConfigError, DatasetError, ModelError
from trainer.loss import LOSSES


def records(trainer, kind: str = "train") -> list[dict]:
    """All completions that the trainer wrote, read as one table."""
    folder = Path(trainer.args.output_dir) / "completions"
    paths = [str(path) for path in sorted(folder.glob(f"{kind}-*.parquet"))]
    return pyarrow.dataset.dataset(paths).to_table().to_pylist()


class NothingHappened(TrainerCallback):
    """Fails where training begins: an error must come before."""

    def on_train_begin(self, args, state, control, **_):
        raise AssertionError("training began")


# -- Refused before training --------------------------------------------------------------------------------------


def test_a_policy_that_is_its_own_reference_is_refused(build_trainer, policy):
    with pytest.raises(ConfigError, match=r"model and ref_model are the same object.*leave ref_model out and a frozen"):
        build_trainer(model=policy, ref_model=policy)


def test_a_reference_beside_an_adapter_is_refused(build_trainer, build_policy):
    with pytest.raises(ConfigError, match="ref_model besides peft_config: the reference is the model without"):
        build_trainer(ref_model=build_policy(), peft_config=LoraConfig(target_modules=["q_proj"]))


def test_codpo_with_one_completion_is_refused(build_trainer):
    with pytest.raises(ConfigError, match="k=1: codpo compares the completions of a prompt; set k to 2 or more"):
        build_trainer({"rlhf_optimizer": "codpo", "k": 1})


def test_a_reward_model_with_two_labels_is_refused(build_trainer, build_reward_model):
    with pytest.raises(ModelError, match="the reward model has 2 labels, a score needs one"):
        build_trainer(reward_model=build_reward_model(num_labels=2))


def test_a_missing_reward_model_is_refused(build_trainer):
    with pytest.raises(ConfigError, match=r"reward_model is None; pass an AutoModelForSequenceClassification"):
        build_trainer(reward_model=None)


def test_training_without_rows_is_refused(build_trainer):
    with pytest.raises(DatasetError, match="train_dataset is missing; pass rows with `messages` to CGPOTrainer"):
        build_trainer(train_dataset=None).train()


def test_a_row_of_an_eval_dataset_is_named_with_its_dataset(build_trainer, rows, conversation):
    with pytest.raises(DatasetError, match=r"eval_dataset\['long'\] row 1: the prompt has 202 tokens"):
        build_trainer(eval_dataset={"short": rows, "long": [*rows[:1], {"messages": conversation("a" * 200)}]})


def test_a_judge_service_that_is_down_stops_the_run_before_it_begins(build_trainer, free_url):
    trainer = build_trainer(mixture_of_judges=[RemoteJudge("word_count", free_url)], callbacks=[NothingHappened()])
    with pytest.raises(ConfigError, match=free_url):
        trainer.train()


def test_a_reward_service_with_another_template_stops_the_run_before_it_begins(
    build_trainer, build_tokenizer, reward_url
):
    tokenizer = build_tokenizer()
    tokenizer.chat_template = tokenizer.chat_template + " "
    trainer = build_trainer(
        reward_model=RemoteRewardModel(reward_url), processing_class=tokenizer, callbacks=[NothingHappened()]
    )
    with pytest.raises(ModelError, match="would be scored in another form"):
        trainer.train()


def test_a_reward_model_with_another_template_stops_the_run_before_it_begins(build_trainer, build_tokenizer):
    other = build_tokenizer()
    other.chat_template = other.chat_template + " "
    trainer = build_trainer(reward_processing_class=other, callbacks=[NothingHappened()])
    with pytest.raises(ModelError, match="allow_template_mismatch=True"):
        trainer.train()


# -- Odd tokenizers and odd text ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "model_eos"),
    [
        ({}, [1, 4]),
        ({"eos_token": None}, None),
        ({"eos_token": None}, [1, 4]),
        ({"pad_token": None}, 1),
    ],
    ids=["a list", "none at all", "only the model's", "no pad token"],
)
def test_any_kind_of_end_of_sequence_works_from_end_to_end(
    build_trainer, build_tokenizer, build_policy, changes, model_eos, rows
):
    model = build_policy(eos_token_id=model_eos)
    model.generation_config.eos_token_id = model_eos
    # Half of the rows have no baseline, so the reference samples some.
    rows = [{"messages": row["messages"][: 1 + i % 2]} for i, row in enumerate(rows)]
    trainer = build_trainer(model=model, processing_class=build_tokenizer(**changes), train_dataset=rows)
    before = parameters_to_vector(model.parameters()).clone()
    trainer.train()
    assert not torch.equal(parameters_to_vector(trainer.model.parameters()), before)
    assert any(row["has_eos"] for row in records(trainer)) == (model_eos is not None)


class Odd(PreTrainedTokenizerFast):
    """Decodes everything to what no JSON and no UTF-8 can carry, and to NUL."""

    def decode(self, *arguments, **named):
        return "\ud800" + super().decode(*arguments, **named) + "\x00\udfff"


def test_lone_surrogates_and_nul_do_not_stop_a_run(build_trainer, tokenizer, judge_url, reward_url):
    tokenizer.__class__ = type("Odd", (Odd, type(tokenizer)), {})
    trainer = build_trainer(
        processing_class=tokenizer,
        mixture_of_judges=[RemoteJudge("word_count", judge_url), RemoteJudge("no_repetition", judge_url)],
        reward_model=RemoteRewardModel(reward_url),
    )
    trainer.train()
    written = records(trainer)
    assert len(written) == 32
    assert all(row["completion"].startswith("\ufffd") for row in written)
    assert all(row["completion"].endswith("\x00\ufffd") for row in written)
    assert {row["outcome"] for row in written} <= {"satisfied", "violated"}
    trainer.scoring.close()


# -- Services -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOSSES)
def test_each_optimizer_trains_against_both_services(build_trainer, judge_url, reward_url, name):
    trainer = build_trainer(
        {"rlhf_optimizer": name},
        mixture_of_judges=[RemoteJudge("word_count", judge_url, max=2, unit="characters")],
        reward_model=RemoteRewardModel(reward_url),
        eval_dataset=[{"messages": [{"role": "user", "content": "ab"}], "ground_truth": "4"}],
    )
    before = parameters_to_vector(trainer.model.parameters()).clone()
    trainer.train()
    assert not torch.equal(parameters_to_vector(trainer.model.parameters()), before)
    assert trainer.evaluate()["eval_num/sent"] == 1
    written = records(trainer)
    for row in written:
        (verdict,) = row["verdicts"]
        assert (verdict["label"], verdict["judge"]) == ("word_count", "word_count")
        assert verdict["outcome"] == ("satisfied" if 1 <= len(row["completion"].strip()) <= 2 else "violated")
        assert verdict["version"]
    trainer.scoring.close()


# -- Baselines ----------------------------------------------------------------------------------------------------


def test_missing_baselines_are_sampled_once_and_the_same_each_time(build_trainer, rows):
    rows = [{"messages": row["messages"][:1]} for row in rows]
    texts = []
    for _ in range(2):
        trainer = build_trainer({"max_steps": 6}, train_dataset=rows)
        state = torch.get_rng_state()
        trainer.prepare(trainer.train_dataset)
        assert torch.equal(torch.get_rng_state(), state)  # they do not shift the rollouts
        prepared = [trainer.baselines.of(row) for row in trainer.train_dataset]
        trainer.train()
        assert [trainer.baselines.of(row) for row in trainer.train_dataset] == prepared
        texts.append(prepared)
    assert texts[0] == texts[1]
    assert len({completion.text for completion in texts[0]}) > 1


def test_codpo_needs_no_baselines(build_trainer, rows):
    trainer = build_trainer({"rlhf_optimizer": "codpo"}, train_dataset=[{"messages": r["messages"][:1]} for r in rows])
    trainer.train()
    assert trainer.baselines.missing(list(trainer.train_dataset)) == list(trainer.train_dataset)


# -- Adapters and memory ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "with gradient checkpointing"])
def test_an_adapter_is_trained_and_its_base_is_not(build_trainer, checkpointing):
    adapter = LoraConfig(r=4, target_modules=["q_proj", "v_proj"])
    trainer = build_trainer({"activation_checkpointing": checkpointing}, peft_config=adapter)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    changed = {name for name, p in trainer.model.named_parameters() if not torch.equal(p, before[name])}
    assert changed
    assert all("lora_" in name for name in changed)
    assert max(abs(row["logratio"]) for row in records(trainer) if row["step"] == 1) < 1e-4
    assert max(abs(row["logratio"]) for row in records(trainer) if row["step"] == 2) > 1e-4


def test_gradient_checkpointing_changes_no_update(build_trainer):
    found = []
    for checkpointing in (False, True):
        trainer = build_trainer({"activation_checkpointing": checkpointing, "optim": "sgd"})
        trainer.train()
        found.append(parameters_to_vector(trainer.model.parameters()))
    assert torch.allclose(*found, atol=1e-6)


def test_dropout_is_off_in_policy_and_reference_unless_wanted(build_trainer, build_policy):
    trainer = build_trainer(model=build_policy(attention_dropout=0.5))
    assert {m.attention_dropout for m in trainer.model.modules() if hasattr(m, "attention_dropout")} == {0.0}
    assert {m.attention_dropout for m in trainer.ref_model.modules() if hasattr(m, "attention_dropout")} == {0.0}
    trainer = build_trainer({"disable_dropout": False}, model=build_policy(attention_dropout=0.5))
    assert {m.attention_dropout for m in trainer.model.modules() if hasattr(m, "attention_dropout")} == {0.5}


def test_the_reference_stays_as_it_was(build_trainer):
    trainer = build_trainer()
    before = parameters_to_vector(trainer.ref_model.parameters()).clone()
    trainer.train()
    assert torch.equal(parameters_to_vector(trainer.ref_model.parameters()), before)
    assert not torch.equal(parameters_to_vector(trainer.model.parameters()), before)


# -- Evaluation ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_in_mixed_precision_the_reference_holds_what_it_computes_in_and_computes_the_same(
    build_trainer, build_policy, tied
):
    policy = build_policy(tie_word_embeddings=tied)
    trainer = build_trainer({"bf16": True}, model=policy)
    inner = trainer.accelerator.unwrap_model(trainer.ref_model)
    assert inner.model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16
    assert inner.model.embed_tokens.weight.dtype == torch.float32
    assert inner.lm_head.weight.dtype == (torch.float32 if tied else torch.bfloat16)
    ids = torch.arange(6, 20)[None]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(trainer.ref_model(ids).logits, policy(ids).logits.float())
    assert policy.model.layers[0].mlp.up_proj.weight.dtype == torch.float32


def test_a_reference_that_is_given_stays_as_it_is(build_trainer, build_policy):
    reference = build_policy()
    build_trainer({"bf16": True}, ref_model=reference)
    assert {p.dtype for p in reference.parameters()} == {torch.float32}


def test_an_evaluation_before_training_reports_the_training_metrics(build_trainer, rows, logs):
    trainer = build_trainer({"eval_k": 2}, eval_dataset=rows[:3])
    metrics = trainer.evaluate()
    assert metrics["eval_num/sent"] == 6
    assert abs(metrics["eval_kl/mean"]) < 1e-5
    assert 0 <= metrics["eval_constraint/HasNoA/satisfied_rate"] <= 1
    trainer.train()
    trained = {name for log in logs(trainer) for name in log if "/" in name and not name.startswith("eval_")}
    assert {f"eval_{name}" for name in trained} - set(metrics) == {"eval_update/applied_rate"}


def test_two_evaluations_differ_by_the_policy_alone(build_trainer, rows):
    trainer = build_trainer(eval_dataset=rows)
    first, again = trainer.evaluate(), trainer.evaluate()
    assert [row["completion"] for row in records(trainer, "eval-000000-0-0")] == [
        row["completion"] for row in records(trainer, "eval-000000-0-1")
    ]
    assert first["eval_score/mean"] == again["eval_score/mean"]
    trainer.train()
    assert trainer.evaluate()["eval_kl/mean"] != first["eval_kl/mean"]


def test_evaluating_in_between_does_not_change_the_run(build_trainer, rows):
    found = []
    for strategy in ("no", "steps"):
        trainer = build_trainer({"eval_strategy": strategy, "eval_steps": 1, "max_steps": 3}, eval_dataset=rows)
        trainer.train()
        found.append(parameters_to_vector(trainer.model.parameters()))
    assert torch.equal(*found)


@pytest.mark.parametrize("workers", [0, 1])
def test_several_eval_datasets_are_reported_under_their_names(build_trainer, rows, workers):
    config = {"dataloader_num_workers": workers, "dataloader_persistent_workers": workers > 0}
    trainer = build_trainer(config, eval_dataset={"two": rows[:2], "five": rows[2:7]})
    metrics = trainer.evaluate()
    assert (metrics["eval_two_num/sent"], metrics["eval_five_num/sent"]) == (2, 5)
    assert trainer.evaluate("five")["eval_num/sent"] == 5


def test_rows_given_to_evaluate_have_their_own_baselines(build_trainer, conversation):
    trainer = build_trainer({"temperature": 1e-6})
    rewards = []
    for baseline in ("a", "0123456789"):
        trainer.evaluate([{"messages": conversation("ab", baseline)}])
        rewards.append(records(trainer, "eval")[-1]["reward"])
    assert rewards[0] != rewards[1]
    (loose,) = trainer.evaluate({"x": [{"messages": conversation("ab", "a")}]}).keys() & {"eval_x_num/sent"}
    assert loose


def test_an_evaluation_without_rows_is_refused(build_trainer):
    with pytest.raises(ValueError, match="evaluation requires an eval_dataset"):
        build_trainer().evaluate()


# -- Files and logs -----------------------------------------------------------------------------------------------


def test_a_run_leaves_metrics_completions_and_a_model_that_loads(build_trainer, tmp_path, logs):
    trainer = build_trainer({"max_steps": 2, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 2})
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "final")
    assert torch.equal(parameters_to_vector(loaded.parameters()), parameters_to_vector(trainer.model.parameters()))
    assert AutoTokenizer.from_pretrained(tmp_path / "final").chat_template
    steps = [log for log in logs(trainer) if "loss" in log]
    assert [log["step"] for log in steps] == [1, 2]
    for log in steps:
        assert log["num/sent"] == log["num/satisfied"] + log["num/violated"] + log["num/unknown"] == 16
        assert log["constraint/satisfied_rate"] == log["num/satisfied"] / 16
    written = records(trainer)
    assert [row["step"] for row in written] == [1] * 16 + [2] * 16
    for row in written:
        assert (row["outcome"] == "satisfied") == ("a" not in row["completion"])


def test_steps_after_the_last_log_are_reported_at_the_end(build_trainer, logs):
    trainer = build_trainer({"logging_steps": 2, "max_steps": 3})
    trainer.train()
    assert [log["step"] for log in logs(trainer) if "kl/mean" in log] == [2, 3]


def test_a_model_is_loaded_by_its_folder(build_trainer, build_policy, tmp_path):
    build_policy().save_pretrained(tmp_path / "policy")
    trainer = build_trainer(model=str(tmp_path / "policy"), ref_model=str(tmp_path / "policy"))
    trainer.train()
    assert max(abs(row["logratio"]) for row in records(trainer) if row["step"] == 1) < 1e-4


def test_completions_are_written_only_where_wanted(build_trainer):
    trainer = build_trainer({"log_completions": False})
    trainer.train()
    assert not (Path(trainer.args.output_dir) / "completions").exists()


def test_a_reward_model_of_ones_own_needs_three_methods(build_trainer):
    class LongIsGood:
        def check(self, policy_tokenizer, allow_template_mismatch):
            pass

        def submit(self, samples, deadline_s):
            return lambda: [float(len(sample.completion)) for sample in samples]

        def close(self):
            pass

    trainer = build_trainer(reward_model=LongIsGood())
    trainer.train()
    assert all(row["score"] == len(row["completion"]) for row in records(trainer))
