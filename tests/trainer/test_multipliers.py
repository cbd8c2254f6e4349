"""Multipliers over a run: they move with each update, stay in an evaluation, and come back from a checkpoint."""

import pytest
import torch

from trainer.multipliers import load_multipliers

CONFIG = {
    "rlhf_optimizer": "constrained_grpo", "temperature": 2.0, "save_strategy": "steps", "save_steps": 2, "max_steps": 4,
    "per_device_train_batch_size": 2,
}  # fmt: skip
NAME = "constraint/HasNoA/multiplier"


def test_a_multiplier_moves_with_the_violations_of_each_step(build_trainer, rows, logs):
    trainer = build_trainer(CONFIG, eval_dataset=rows[:2])
    trainer.train()
    now, steps = 1.0, [line for line in logs(trainer) if NAME in line and "loss" in line]
    assert len(steps) == 4
    for line in steps:
        now += 0.1 * (line["constraint/HasNoA/violated_rate"] - 0.05)
        assert line[NAME] == pytest.approx(now, abs=1e-6)
    held = trainer.tasks["default"].loss_settings.multipliers
    trainer.evaluate()
    assert trainer.tasks["default"].loss_settings.multipliers is held


def test_a_resumed_run_has_the_multipliers_of_the_uninterrupted_one(build_trainer, tmp_path):
    whole = build_trainer(CONFIG)
    whole.train()
    held = whole.tasks["default"].loss_settings.multipliers
    assert load_multipliers(tmp_path / "run" / "checkpoint-4", "default") == held
    assert load_multipliers(tmp_path / "run" / "checkpoint-2", "default") != held
    again = build_trainer(CONFIG)
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert again.tasks["default"].loss_settings.multipliers == held
    for one, other in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_checkpoint_without_multipliers_has_none(tmp_path):
    assert load_multipliers(tmp_path, "default") == {}
