"""The training step on a CUDA device: the same exactness as on a CPU. Needs a GPU; without one all of it is skipped."""

import copy
import importlib.util
import random
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from transformers import TrainerCallback

from trainer.abilities import abilities
from trainer.batch import Sequences
from trainer.logprobs import completion_logprobs, in_parts, logprobs_in_batches
from trainer.loss import LOSSES, load_loss
from trainer.rollout import Sampler, pad_sequences

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

spec = importlib.util.spec_from_file_location("reference_step", Path(__file__).with_name("reference_step.py"))
reference_step = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reference_step)

LEARNING_RATE = 0.05


def parameters(model) -> torch.Tensor:
    return torch.cat([p.detach().flatten().cpu() for p in model.parameters()])


class EvenLength:
    def judge(self, prompts, completions):
        return [len(completion) % 2 == 0 for completion in completions]


class PlainWay(TrainerCallback):
    """Makes every step of a trainer a second time, on copies of its models on the CPU."""

    def __init__(self, trainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **_):
        self.model = copy.deepcopy(self.trainer.model).cpu()
        self.reference = copy.deepcopy(self.trainer.ref_model).cpu()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=LEARNING_RATE)

    def on_step_begin(self, args, state, control, **_):
        self.settings = self.trainer.tasks["default"].loss_settings

    def on_step_end(self, args, state, control, **_):
        loss, (experience,) = load_loss(args.rlhf_optimizer), self.trainer._iteration.experiences
        plain = on_cpu(experience)
        reference_step.plain_step(self.model, self.reference, self.optimizer, loss, self.settings, plain)


def on_cpu(value):
    """A bundle of tensors, bundles in it included, on the CPU."""
    if isinstance(value, torch.Tensor):
        return value.cpu()
    if not hasattr(value, "__dataclass_fields__") or type(value).__name__ in ("Row", "Judged"):
        return value
    moved = copy.copy(value)
    for name in value.__dataclass_fields__:
        object.__setattr__(moved, name, on_cpu(getattr(value, name)))
    return moved


def batch(vocabulary: int, device: str, k: int = 3) -> Sequences:
    """Two prompts, each with completions of several lengths."""
    drawn = random.Random(7)
    prompts = [[drawn.randrange(2, vocabulary) for _ in range(n)] for n in (5, 9) for _ in range(k)]
    completions = [[drawn.randrange(2, vocabulary) for _ in range(n)] for n in (4, 1, 6, 3, 7, 2)[: 2 * k]]
    for i in range(2 * k):
        prompts[i] = prompts[i - i % k]
    return pad_sequences(prompts, completions, 0, torch.device(device))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("budget", [24, 2048])
def test_three_steps_give_the_parameters_of_the_plain_way(build_trainer, name, budget):
    config = {
        "optim": "sgd", "learning_rate": LEARNING_RATE, "lr_scheduler_type": "constant", "max_grad_norm": 0.0,
        "max_steps": 3, "per_device_train_batch_size": 8, "use_cpu": False, "rlhf_optimizer": name,
        "update_tokens": budget, "logprob_tokens": budget,
    }  # fmt: skip
    trainer = build_trainer(config, mixture_of_judges=[EvenLength()])
    assert trainer.args.device.type == "cuda"
    start, plain = parameters(trainer.model), PlainWay(trainer)
    trainer.add_callback(plain)
    trainer.train()
    assert (parameters(trainer.model) - start).abs().max() > 1e-3
    assert torch.allclose(parameters(trainer.model), parameters(plain.model), atol=5e-5)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("dtype", "bar"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_log_probabilities_are_those_of_a_plain_forward(build_policy, attention, dtype, bar):
    model = build_policy(attn_implementation=attention, hidden_size=64, vocab_size=512).to("cuda", dtype)
    sequences = batch(512, "cuda")
    lengths = sequences.completion_mask_NT.sum(dim=1)
    wanted = []
    with torch.no_grad():
        for i in range(len(sequences)):
            prompt = sequences.prompt_ids_NP[i][sequences.prompt_mask_NP[i]]
            completion = sequences.completion_ids_NT[i][sequences.completion_mask_NT[i]]
            logits = model(torch.cat([prompt, completion])[None]).logits[0, len(prompt) - 1 : -1].float()
            wanted.append(torch.log_softmax(logits, dim=1).gather(1, completion[:, None]).sum())
    assert abilities(model).rule is not None
    whole = completion_logprobs(model, sequences).detach()
    parts = logprobs_in_batches(model, sequences, in_parts(model, sequences, 64))
    for found in (whole, parts):
        assert ((found - torch.stack(wanted)).abs() / lengths).max() < bar


def test_greedy_completions_are_those_of_generate(build_policy, tokenizer):
    model = build_policy().to("cuda")
    prompts = [[7, 8, 9], [10, 11], [12, 13, 14, 15]]
    sampler = Sampler(tokenizer, (1,), 12, 8)
    found = [group[0].token_ids for group in sampler.sample(model, prompts, 1, 0.0)]
    for ids, tokens in zip(prompts, found, strict=True):
        wanted = model.generate(torch.tensor([ids], device="cuda"), do_sample=False, max_new_tokens=12, pad_token_id=0)
        assert list(tokens) == wanted[0, len(ids) :].tolist()[: len(tokens)]
        assert len(tokens) == 12 or tokens[-1] == 1


@pytest.mark.parametrize("adapter", [False, True], ids=["all weights", "adapter"])
def test_the_logratio_is_zero_at_the_start_in_mixed_precision(build_trainer, adapter):
    peft_config = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM") if adapter else None
    config = {"use_cpu": False, "bf16": True, "max_steps": 1, "learning_rate": 0.0}
    trainer = build_trainer(config, peft_config=peft_config)
    trainer.train()
    (experience,) = trainer._iteration.experiences
    assert (experience.scored.logratios_BK == 0).all()


def test_a_resumed_run_ends_with_the_parameters_of_the_uninterrupted_one(build_trainer, tmp_path):
    config = {"use_cpu": False, "max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    whole = build_trainer({**config, "output_dir": str(tmp_path / "whole")})
    whole.train()
    again = build_trainer({**config, "output_dir": str(tmp_path / "again")})
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert torch.allclose(parameters(again.model), parameters(whole.model), atol=1e-6)


def test_peak_memory_of_a_step_does_not_grow_with_k(build_policy, build_trainer):
    peaks = []
    for k in (4, 16):
        model = build_policy(hidden_size=256, intermediate_size=1024, num_hidden_layers=4)
        config = {
            "use_cpu": False, "k": k, "max_steps": 2, "max_new_tokens": 64, "per_device_train_batch_size": 4,
            "generation_chunk_size": 16, "logprob_tokens": 512, "update_tokens": 512,
        }  # fmt: skip
        trainer = build_trainer(config, model=model)
        torch.cuda.reset_peak_memory_stats()
        trainer.train()
        peaks.append(torch.cuda.max_memory_allocated())
        del trainer, model
        torch.cuda.empty_cache()
    assert peaks[1] < 1.15 * peaks[0]
