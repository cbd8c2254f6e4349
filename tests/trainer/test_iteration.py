"""A process that has no row of a task takes part in everything, and adds nothing."""

import pytest
import torch

from trainer.experience import Experience, scored_rollout
from trainer.iteration import Share, joint_sequences
from trainer.loss import LOSSES, LossSettings, load_loss
from trainer.rollout import Completion
from trainer.task import TrainingTask
from trainer.update import linearize


def training_task(name: str, loss: str = "crpg") -> TrainingTask:
    return TrainingTask(
        name=name, train_dataset=None, eval_dataset=None, mixture=None, reward_model=None, loss=load_loss(loss),
        loss_settings=LossSettings(), k=2, temperature=1.0, max_new_tokens=4, batch_size=1, weight=1.0,
    )  # fmt: skip


@pytest.mark.parametrize("name", LOSSES)
def test_a_task_without_rows_here_adds_nothing_to_the_update(name, build_row):
    full = Share(training_task("full"), [0], [build_row("ab")], [[Completion("a", (6, 1), True)] * 2], [], 2)
    empty = Share(training_task("empty", name), [], [], [], [], 2)
    sequences = joint_sequences([full, empty], 128, 0, torch.device("cpu"))
    assert (len(sequences), full.num_sequences, empty.num_sequences) == (2, 2, 0)
    rollout, nothing = empty.rollout(sequences.select(slice(2, 2))), torch.zeros(0)
    scored = scored_rollout(rollout, [], [], [], nothing, nothing, 1.0, ["judge"])
    assert tuple(scored.judge_known_BKJ.shape) == (0, 2, 1)
    sums = []

    def total(tensor):
        sums.append(tensor)
        return tensor

    plan = empty.task.loss.plan(scored, empty.task.loss_settings, total)
    assert sums  # other processes wait for this one in every sum
    experience = Experience([], rollout, [], scored, plan)
    value, factor_N = linearize(experience, empty.task.loss, empty.task.loss_settings, 0, 0)
    assert float(value) == 0
    assert tuple(factor_N.shape) == (0,)
    assert experience.metrics(["judge"]).result()["num/sent"] == 0
    assert experience.table(1) == []
