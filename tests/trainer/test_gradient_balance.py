"""The tasks' gradients at one norm: what is added, by hand and through the trainer."""

import pytest
import torch

from trainer import Task
from trainer.errors import ConfigError
from trainer.gradient_balance import balanced


class HasNoA:
    def judge(self, prompts, completions):
        return ["a" not in completion for completion in completions]


class EvenLength:
    def judge(self, prompts, completions):
        return [len(completion) % 2 == 0 for completion in completions]


def test_gradients_are_added_at_the_mean_of_their_norms():
    model = torch.nn.Linear(2, 1, bias=False)
    directions = {"a": [3.0, 4.0], "b": [0.0, 1.0], "nothing": [0.0, 0.0]}

    def descend(task):
        loss = (model.weight * torch.tensor(directions[task])).sum()
        loss.backward()
        return loss.detach()

    loss = balanced(model, {"a": 1.0, "b": 0.5, "nothing": 1.0}, descend, lambda: float(model.weight.grad.norm()))
    # Norms 5 and 1, their mean 3; 3 * (1.0 * [0.6, 0.8] + 0.5 * [0, 1]) = [1.8, 3.9].
    assert model.weight.grad[0].tolist() == pytest.approx([1.8, 3.9])
    weight = model.weight.detach()[0]
    assert float(loss) == pytest.approx(float(3 * weight[0] + 4 * weight[1] + 0.5 * weight[1]), abs=1e-6)


def run(build_trainer, rows, **config):
    """One step of plain SGD; codpo's gradient is shorter than crpg's."""
    tasks = [
        Task(name="no_a", train_dataset=rows, mixture_of_judges=[HasNoA()], rlhf_optimizer="crpg"),
        Task(name="even", train_dataset=rows, mixture_of_judges=[EvenLength()], rlhf_optimizer="codpo"),
    ]
    settings = {"max_steps": 1, "optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0.0, "update_tokens": 48}
    trainer = build_trainer({**settings, **config}, tasks=tasks, train_dataset=None, mixture_of_judges=())
    before = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
    trainer.train()
    after = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
    return trainer, (before - after) / 0.1


def test_a_step_has_every_tasks_direction_at_the_same_length(build_trainer, rows, monkeypatch):
    norms = []
    original = balanced

    def watched(model, weights, descend, norm):
        def noted():
            norms.append((norm(), torch.cat([p.grad.flatten().clone() for p in model.parameters()])))
            return norms[-1][0]

        return original(model, weights, descend, noted)

    monkeypatch.setattr("trainer.cgpo_trainer.balanced", watched)
    _, update = run(build_trainer, rows, balance_task_gradients=True)
    (first, g), (second, h) = norms
    assert abs(first - second) > 0.1
    expected = (first + second) / 2 * (g / first + h / second)
    assert torch.allclose(update, expected, atol=1e-4)
    _, plain = run(build_trainer, rows)
    assert torch.allclose(plain, g + h, atol=1e-4)
    assert not torch.allclose(plain, update, atol=1e-2)


def test_balancing_needs_the_whole_step_in_one_micro_batch(build_config):
    with pytest.raises(ConfigError, match=r"balance_task_gradients with gradient_acc\w+=2: .* update_tokens"):
        build_config(balance_task_gradients=True, gradient_accumulation_steps=2)


def test_balancing_under_deepspeed_is_refused_before_the_first_step(build_trainer):
    trainer = build_trainer({"balance_task_gradients": True})
    trainer.is_deepspeed_enabled = True  # as accelerate's plugin makes it
    with pytest.raises(ConfigError, match="DeepSpeed keeps the gradients to itself; set it to False, or use FSDP"):
        trainer.train()
