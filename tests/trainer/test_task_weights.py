"""The weights of tasks: as given unless adapted, then towards the task that does worst; and kept in checkpoints."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from trainer import Task
from trainer.metrics import Means
from trainer.task_weights import TaskWeights

DEVICE = torch.device("cpu")


class Always:
    def __init__(self, outcome: bool) -> None:
        self.outcome = outcome

    def judge(self, prompts, completions):
        return [self.outcome] * len(completions)


class EvenLength:
    def judge(self, prompts, completions):
        return [len(completion) % 2 == 0 for completion in completions]


def seen(satisfied: int, known: int = 10):
    """What an experience tells the weights: some of ten samples are satisfied, and all have something to teach."""
    scored = SimpleNamespace(known_BK=torch.arange(10) < known, satisfied_BK=torch.arange(10) < satisfied)
    plan = SimpleNamespace(used_BK=torch.ones(10), baseline_weights_B=torch.zeros(1))
    return SimpleNamespace(scored=scored, plan=plan, num_unknown=10 - known)


def weights_of(rate: float, given=(1.0, 1.0), max_unknown_fraction: float = 1.0) -> TaskWeights:
    tasks = {name: SimpleNamespace(weight=weight) for name, weight in zip("ab", given, strict=True)}
    shared = {"max_unknown_fraction": max_unknown_fraction, "device": DEVICE, "process_index": 0}
    args = SimpleNamespace(task_weight_rate=rate, **shared)
    return TaskWeights(tasks, args, lambda tensor: tensor)


def step(weights: TaskWeights, *experiences) -> dict[str, float]:
    return weights.of(SimpleNamespace(experiences=experiences), Means())


def test_without_a_rate_the_weights_are_those_given():
    weights = weights_of(0.0, given=(1.0, 0.25))
    for _ in range(3):
        assert step(weights, seen(9), seen(0)) == {"a": 1.0, "b": 0.25}


def test_the_task_that_satisfies_less_weighs_more_in_the_next_step():
    weights = weights_of(1.0)
    assert step(weights, seen(10), seen(0)) == {"a": 1.0, "b": 1.0}
    # Logits -1 * (1 + 0) and -1 * (0 + 0): softmax 0.2689 and 0.7311, times two tasks.
    second = step(weights, seen(10), seen(0))
    assert second == pytest.approx({"a": 0.5379, "b": 1.4621}, abs=1e-4)
    assert sum(second.values()) == pytest.approx(2)


def test_of_two_tasks_that_satisfy_alike_the_one_that_gains_less_weighs_more():
    weights = weights_of(1.0)
    step(weights, seen(2), seen(6))  # logits -0.2 and -0.6
    step(weights, seen(6), seen(6))  # -0.2 - (0.6 + 0.4) = -1.2 and -0.6 - (0.6 + 0) = -1.2
    assert step(weights, seen(6), seen(6)) == pytest.approx({"a": 1.0, "b": 1.0})
    weights = weights_of(1.0)
    step(weights, seen(6), seen(6))
    step(weights, seen(8), seen(6))  # -0.6 - (0.8 + 0.2) = -1.6 and -1.2
    found = step(weights, seen(8), seen(6))
    assert found["b"] > found["a"]


def test_a_task_of_which_nothing_is_known_keeps_its_weight_and_takes_no_part():
    weights = weights_of(1.0, max_unknown_fraction=0.5)
    assert step(weights, seen(5), seen(0, known=0)) == {"a": 1.0}
    # Logits -0.5 and 0: softmax 0.3775 and 0.6225.
    assert step(weights, seen(5), seen(0, known=0)) == pytest.approx({"a": 0.7551}, abs=1e-4)


def two_tasks(rows, **settings):
    return [
        Task(name="easy", train_dataset=rows, mixture_of_judges=[Always(True)], **settings),
        Task(name="even", train_dataset=rows, mixture_of_judges=[EvenLength()], **settings),
    ]


def test_a_resumed_run_goes_on_with_its_weights(build_trainer, rows, tmp_path):
    config = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "task_weight_rate": 0.5}

    def run(folder, **arguments):
        trainer = build_trainer(
            {**config, "output_dir": str(tmp_path / folder)},
            tasks=two_tasks(rows),
            train_dataset=None,
            mixture_of_judges=(),
        )
        trainer.train(**arguments)
        lines = (Path(tmp_path / folder) / "metrics.jsonl").read_text().splitlines()
        logs = [json.loads(line) for line in lines]
        return trainer, [log["task/even/weight"] for log in logs if "loss" in log]

    whole, weights = run("whole")
    assert weights[0] == 1.0
    assert weights[3] > weights[1] > 1.0
    resumed, after = run("resumed", resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert after == weights[2:]
    for p, q in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(p, q)
