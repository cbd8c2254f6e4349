"""What must hold exactly through the real trainer: one scale, padding, inert unknowns, accumulation, resuming."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from peft import LoraConfig
from transformers import TrainerCallback

from trainer.loss import LOSSES


def parameters(model) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def completions(trainer, kind: str = "train") -> list[dict]:
    """What the trainer wrote of its completions, step after step."""
    folder = Path(trainer.args.output_dir) / "completions"
    return [row for path in sorted(folder.glob(f"{kind}-*.parquet")) for row in pq.read_table(path).to_pylist()]


def metrics_lines(trainer) -> list[str]:
    return (Path(trainer.args.output_dir) / "metrics.jsonl").read_text().splitlines()


class ByLength:
    """Satisfied where the completion has an even number of characters: about half of them."""

    def judge(self, prompts, completions):
        return [len(completion) % 2 == 0 for completion in completions]


class Never:
    def judge(self, prompts, completions):
        return [False] * len(completions)


# -- One policy, one scale ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.7, 1.3])
@pytest.mark.parametrize("adapter", [False, True], ids=["all weights", "adapter"])
def test_the_logratio_is_zero_at_the_start_whatever_the_sampling_temperature(build_trainer, temperature, adapter):
    peft_config = LoraConfig(r=4, lora_dropout=0.5, target_modules=["q_proj", "v_proj"]) if adapter else None
    trainer = build_trainer(
        {"temperature": temperature, "max_steps": 1, "per_device_train_batch_size": 8}, peft_config=peft_config
    )
    trainer.train()
    ratios = [row["logratio"] for row in completions(trainer)]
    assert len(ratios) == 32
    assert max(abs(ratio) for ratio in ratios) < 1e-4


def test_the_logratio_is_zero_at_the_start_in_mixed_precision(build_trainer):
    trainer = build_trainer({"bf16": True, "max_steps": 1})
    trainer.train()
    assert max(abs(row["logratio"]) for row in completions(trainer)) < 1e-4


@pytest.mark.parametrize("adapter", [False, True], ids=["all weights", "adapter"])
def test_an_evaluation_before_training_is_in_mixed_precision_too(build_trainer, rows, adapter):
    peft_config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"]) if adapter else None
    trainer = build_trainer({"bf16": True}, eval_dataset=rows, peft_config=peft_config)
    trainer.evaluate()
    assert max(abs(row["logratio"]) for row in completions(trainer, "eval")) < 1e-4


def test_the_logratio_moves_with_the_policy(build_trainer):
    trainer = build_trainer({"max_steps": 3})
    trainer.train()
    assert max(abs(row["logratio"]) for row in completions(trainer) if row["step"] == 3) > 1e-2


# -- Padding ------------------------------------------------------------------------------------------------------


def test_logratio_score_verdict_and_reward_of_a_row_do_not_change_beside_longer_rows(build_trainer, conversation):
    # Greedy completions, so that the row is the same; its policy differs from the reference.
    short = {"messages": conversation("a", "b")}
    others = [{"messages": conversation("abc def ghij 0123456789", "ab" * 20)}, {"messages": conversation("j" * 9, "")}]
    records = []
    for rows in ([short], [short, *others], [*others, short]):
        trainer = build_trainer({"temperature": 1e-6, "log_completions": True}, eval_dataset=rows)
        with torch.no_grad():
            for p in trainer.model.parameters():
                p.mul_(1.1)
        trainer.evaluate()
        position = rows.index(short)
        (record,) = [row for row in completions(trainer, "eval") if row["row"] == position]
        records.append(record)
        for path in (Path(trainer.args.output_dir) / "completions").iterdir():
            path.unlink()
    alone = records[0]
    assert abs(alone["logratio"]) > 1e-2
    for other in records[1:]:
        for name in ("completion", "outcome", "verdicts", "num_tokens"):
            assert other[name] == alone[name]
        for name in ("logratio", "score", "reward"):
            assert other[name] == pytest.approx(alone[name], abs=1e-4)


# -- Nothing to learn ---------------------------------------------------------------------------------------------

# To the others a score, or a difference between judges, is worth something without the constraints.
CONSTRAINED = ("crpg", "codpo", "crraft")


@pytest.mark.parametrize("name", CONSTRAINED)
def test_nothing_satisfied_leaves_every_parameter_bit_for_bit(build_trainer, name, conversation):
    # The baselines are judged too; crraft would train on a satisfied one.
    trainer = build_trainer({"rlhf_optimizer": name, "weight_decay": 0.1}, mixture_of_judges=[Never()])
    before = parameters(trainer.model).clone()
    trainer.train()
    assert torch.equal(parameters(trainer.model), before)
    assert {row["outcome"] for row in completions(trainer)} == {"violated"}


class EvenUntilItIsOver:
    """Satisfied where the completion has an even number of characters; from a moment on, nothing is."""

    def __init__(self) -> None:
        self.is_over = False

    def judge(self, prompts, completions):
        return [not self.is_over and len(completion) % 2 == 0 for completion in completions]


@pytest.mark.parametrize("name", CONSTRAINED)
def test_nothing_satisfied_changes_nothing_where_adam_has_momentum_and_weights_decay(build_trainer, name, conversation):
    judge, seen = EvenUntilItIsOver(), []

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **_):
            seen.append(parameters(model).clone())
            judge.is_over = state.global_step >= 2

    trainer = build_trainer(
        {"rlhf_optimizer": name, "weight_decay": 0.1, "max_steps": 4, "per_device_train_batch_size": 8},
        mixture_of_judges=[judge],
        callbacks=[Watch()],
        # Baselines of odd length are violated from the start, so crraft cannot fall back to one.
        train_dataset=[{"messages": conversation(letter, letter)} for letter in "abcdefgh"],
    )
    start = parameters(trainer.model).clone()
    trainer.train()
    assert not torch.equal(seen[0], start)
    assert not torch.equal(seen[1], seen[0])
    assert torch.equal(seen[2], seen[1])
    assert torch.equal(seen[3], seen[2])
    applied = [json.loads(line).get("update/applied_rate") for line in metrics_lines(trainer)]
    assert applied[:4] == [1, 1, 0, 0]


# -- Unknown is inert ---------------------------------------------------------------------------------------------


class UnknownFor(ByLength):
    """`ByLength`, but it abstains on the completions at some places of its batch."""

    def __init__(self, *places: int) -> None:
        self.places = places

    def judge(self, prompts, completions):
        verdicts = super().judge(prompts, completions)
        return [-1 if i in self.places else verdict for i, verdict in enumerate(verdicts)]


@pytest.mark.parametrize("name", LOSSES)
def test_an_unknown_sample_has_no_share_in_an_update(build_trainer, name):
    # The same completions twice; the reward model then gives the unknown one a huge score, which must not matter.
    changed = []
    for bonus in (0.0, 1e6):
        judge = UnknownFor(5)

        class Reward:
            bonus_at_5 = bonus

            def check(self, tokenizer, allow_template_mismatch):
                pass

            def submit(self, samples, deadline_s):
                scores = [float(len(sample.completion)) for sample in samples]
                if len(samples) == 16:
                    scores[5] += self.bonus_at_5
                return lambda: scores

            def close(self):
                pass

        trainer = build_trainer(
            {"rlhf_optimizer": name, "max_steps": 1, "max_unknown_fraction": 0.5},
            mixture_of_judges=[judge],
            reward_model=Reward(),
        )
        before = parameters(trainer.model).clone()
        trainer.train()
        changed.append(parameters(trainer.model) - before)
        assert [row["outcome"] for row in completions(trainer)].count("unknown") == 1
    assert torch.equal(*changed)
    assert changed[0].any()


# -- Accumulation -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOSSES)
def test_four_micro_batches_of_two_make_the_update_of_one_batch_of_eight(build_trainer, name):
    # Plain SGD: its update is the gradient, where Adam's would hide a wrong scale.
    found = []
    for batch, accumulation in ((8, 1), (2, 4)):
        trainer = build_trainer(
            {
                "rlhf_optimizer": name,
                "per_device_train_batch_size": batch,
                "gradient_accumulation_steps": accumulation,
                "max_steps": 3,
                "optim": "sgd",
                "learning_rate": 0.05,
                "max_grad_norm": 0.0,
            },
            mixture_of_judges=[ByLength()],
        )
        start = parameters(trainer.model).clone()
        trainer.train()
        found.append(parameters(trainer.model) - start)
    assert found[0].abs().max() > 1e-3
    assert torch.allclose(*found, atol=1e-5)


def test_an_incomplete_last_accumulation_is_a_batch_of_what_is_left(build_trainer, rows):
    # 7 rows in micro-batches of 2, 2 per step: steps of 4 and 3 rows.
    config = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_steps": 2}
    trainer = build_trainer(config, train_dataset=rows[:7])
    trainer.train()
    written = completions(trainer)
    assert [sum(row["step"] == step for row in written) for step in (1, 2)] == [16, 12]
    assert sorted({row["row"] for row in written}) == list(range(7))


def test_drop_last_leaves_incomplete_micro_batches_out(build_trainer, rows):
    config = {"per_device_train_batch_size": 4, "max_steps": 2, "dataloader_drop_last": True}
    trainer = build_trainer(config, train_dataset=rows[:7])
    trainer.train()
    assert [sum(row["step"] == step for row in completions(trainer)) for step in (1, 2)] == [16, 16]


def test_workers_that_load_the_data_change_nothing(build_trainer):
    found = []
    for workers in (0, 2):
        trainer = build_trainer({"dataloader_num_workers": workers})
        trainer.train()
        found.append(parameters(trainer.model))
    assert torch.equal(*found)


# -- Resuming -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "save_at", "accumulation"),
    [("crpg", 3, 1), ("codpo", 4, 1), ("crraft", 5, 1), ("crpg", 1, 2)],
    ids=["middle of an epoch", "end of an epoch", "second step of an epoch", "with accumulation"],
)
def test_a_resumed_run_ends_with_the_parameters_of_the_uninterrupted_one(
    build_trainer, tmp_path, name, save_at, accumulation, rows
):
    # 8 rows, 4 micro-batches of 2: an epoch has 4 steps, or 2 with accumulation. Half the rows lack a baseline.
    rows = [{"messages": row["messages"][: 1 + i % 2]} for i, row in enumerate(rows)]
    config = {
        "rlhf_optimizer": name,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": accumulation,
        "max_steps": 6 // accumulation,
        "save_strategy": "steps",
        "save_steps": save_at,
        "eval_strategy": "steps",
        "eval_steps": 2,
    }
    parts = {"mixture_of_judges": [ByLength()], "train_dataset": rows, "eval_dataset": rows[:3]}
    whole = build_trainer({**config, "output_dir": str(tmp_path / "whole")}, **parts)
    whole.train()
    torch.manual_seed(99)  # a fresh process would not go on with these random numbers
    resumed = build_trainer({**config, "output_dir": str(tmp_path / "resumed")}, **parts)
    torch.manual_seed(98)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{save_at}"))
    assert torch.equal(parameters(resumed.model), parameters(whole.model))

    def drawn(trainer):
        return [(r["step"], r["row"], r["completion"]) for r in completions(trainer) if r["step"] > save_at]

    assert drawn(resumed) == drawn(whole)


def test_a_resumed_adapter_ends_with_the_parameters_of_the_uninterrupted_one(build_trainer, tmp_path):
    config = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}

    def run(name, **arguments):
        torch.manual_seed(7)
        adapter = LoraConfig(r=4, target_modules=["q_proj", "v_proj"])
        trainer = build_trainer({**config, "output_dir": str(tmp_path / name)}, peft_config=adapter)
        trainer.train(**arguments)
        return parameters(trainer.model)

    whole = run("whole")
    assert torch.equal(run("resumed", resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2")), whole)
