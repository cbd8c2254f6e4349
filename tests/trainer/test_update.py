"""The update in parts: the parameters of the plain way, whatever the budget; and what goes through the model for it."""

import copy
import importlib.util
from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback

from trainer import update as update_module
from trainer.loss import LOSSES, load_loss

spec = importlib.util.spec_from_file_location("reference_step", Path(__file__).with_name("reference_step.py"))
reference_step = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reference_step)

LEARNING_RATE = 0.05


def parameters(model) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


class EvenLength:
    def judge(self, prompts, completions):
        return [len(completion) % 2 == 0 for completion in completions]


class PlainWay(TrainerCallback):
    """Makes every step of a trainer a second time, on copies of its models."""

    def __init__(self) -> None:
        self.trainer = None

    def on_train_begin(self, args, state, control, **_):
        self.model = copy.deepcopy(self.trainer.model)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=LEARNING_RATE)

    def on_step_begin(self, args, state, control, **_):
        self.settings = self.trainer.tasks["default"].loss_settings

    def on_step_end(self, args, state, control, **_):
        loss, (experience,) = load_loss(args.rlhf_optimizer), self.trainer._iteration.experiences
        reference_step.plain_step(self.model, self.trainer.ref_model, self.optimizer, loss, self.settings, experience)


def build(build_trainer, **config):
    settings = {
        "optim": "sgd", "learning_rate": LEARNING_RATE, "lr_scheduler_type": "constant", "max_grad_norm": 0.0,
        "max_steps": 3, "per_device_train_batch_size": 8,
    }  # fmt: skip
    return build_trainer({**settings, **config}, mixture_of_judges=[EvenLength()])


@pytest.mark.parametrize(("name", "budget"), [*((name, 24) for name in LOSSES), ("crpg", 2048)])
def test_three_steps_give_the_parameters_of_the_plain_way(build_trainer, name, budget):
    trainer = build(build_trainer, rlhf_optimizer=name, update_tokens=budget, logprob_tokens=budget)
    start = parameters(trainer.model).clone()
    plain = PlainWay()
    plain.trainer = trainer
    trainer.add_callback(plain)
    trainer.train()
    assert (parameters(trainer.model) - start).abs().max() > 1e-3
    assert torch.allclose(parameters(trainer.model), parameters(plain.model), atol=2e-5)


def test_the_logged_loss_is_that_of_the_whole_step(build_trainer):
    losses = []
    for budget in (1, 2048):
        trainer = build(build_trainer, rlhf_optimizer="codpo", update_tokens=budget, max_steps=1)
        trainer.train()
        losses.append(next(log["loss"] for log in trainer.state.log_history if "loss" in log))
    assert losses[0] != 0
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


@pytest.mark.parametrize(("name", "most"), [("codpo", 16), ("crraft", 8)])
def test_only_the_chosen_completions_go_backward(build_trainer, monkeypatch, name, most):
    # 8 prompts with 4 completions: at most a pair, or one, of each.
    members = []
    inner = update_module.Part.loss

    def watched(part, model):
        members.extend(n for row in part.rows for n in row)
        return inner(part, model)

    monkeypatch.setattr(update_module.Part, "loss", watched)
    build(build_trainer, rlhf_optimizer=name, max_steps=1).train()
    assert 0 < len(members) == len(set(members)) <= most


def test_no_part_has_more_tokens_than_the_budget(build_trainer, monkeypatch):
    sizes = []
    inner = update_module.weighted_sum

    def watched(model, sequences, rows, factor_N):
        from trainer.logprobs import is_arranged
        from trainer.packing import pack

        sizes.append(pack(sequences, rows, is_arranged(model, sequences)).input_ids_RL.numel())
        return inner(model, sequences, rows, factor_N)

    monkeypatch.setattr(update_module, "weighted_sum", watched)
    for k in (2, 8):
        build(build_trainer, k=k, update_tokens=48, max_steps=1).train()
        assert max(sizes) <= 48
    assert len(sizes) > 2
