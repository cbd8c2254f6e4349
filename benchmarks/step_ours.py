"""The worker of the step benchmarks that trains with CGPOTrainer; started by them, with its settings as JSON."""

import asyncio
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging as transformers_logging

from benchmarks.lockstep import PROMPTS, gated
from benchmarks.step_judges import JUDGES
from trainer import CGPOConfig, CGPOTrainer, RemoteJudge, RemoteRewardModel
from trainer.embedded import embedded_models


class InThisProcess:
    """A judge of the judge service, asked in this process."""

    def __init__(self, name: str, parameters: dict[str, Any]) -> None:
        from judge_service.registry import Registry
        from wire import JudgeSpec

        self.judge_ = Registry().make(JudgeSpec(name=name, parameters=parameters))

    def judge(self, prompts: Sequence[Any], completions: Sequence[str]) -> list[str]:
        """Return one outcome per completion."""
        from wire import JudgeItem

        items = [JudgeItem(id="0", prompt="-", completion=completion) for completion in completions]
        return [self.judge_.judge(item).outcome for item in items]


class Slow:
    """A judge that takes its time over a batch and is content with everything."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    async def judge(self, prompts: Sequence[Any], completions: Sequence[str]) -> list[bool]:
        """Return True for each completion, after the time."""
        await asyncio.sleep(self.seconds)
        return [True] * len(completions)


def build(settings: dict[str, Any]) -> CGPOTrainer:
    """Return the trainer that the settings describe."""
    models = embedded_models()
    tokenizer = AutoTokenizer.from_pretrained(models.policy)
    judges: list[Any]
    reward_model: Any
    if settings.get("judge_url"):
        judges = [RemoteJudge(name, settings["judge_url"], **own) for name, own in JUDGES.items()]
        reward_model = RemoteRewardModel(settings["reward_url"])
    else:
        judges = [InThisProcess(name, own) for name, own in JUDGES.items()]
        reward_model = AutoModelForSequenceClassification.from_pretrained(models.reward_model, dtype=torch.bfloat16)
    if settings.get("slow_judge_s"):
        judges.append(Slow(settings["slow_judge_s"]))
    peft_config = None
    if settings.get("lora"):
        from peft import LoraConfig

        peft_config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    k, batch = settings.get("k", 8), settings.get("prompts", len(PROMPTS))
    prompts = [PROMPTS[i % len(PROMPTS)] for i in range(batch)]
    return CGPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(models.policy, dtype=torch.float32),
        reward_model=reward_model,
        mixture_of_judges=judges,
        args=CGPOConfig(
            output_dir=tempfile.mkdtemp(prefix="cgpo-step-"), rlhf_optimizer=settings["optimizer"], k=k,
            max_new_tokens=settings.get("length", 64), kl_threshold=20.0, per_device_train_batch_size=batch,
            max_steps=10_000, learning_rate=1e-6, lr_scheduler_type="constant", bf16=True, use_cpu=True,
            generation_chunk_size=settings.get("chunk", batch * k), logging_steps=1, save_strategy="no",
            report_to="none", disable_tqdm=True, log_completions=False,
            **settings.get("config", {}),
        ),
        processing_class=tokenizer,
        train_dataset=[{"messages": [{"role": "user", "content": prompt}]} for prompt in prompts],
        peft_config=peft_config,
    )  # fmt: skip


def main() -> None:
    """Train until the other end is done."""
    transformers_logging.set_verbosity_error()
    settings = json.loads(sys.argv[1])
    trainer = build(settings)
    if settings.get("full_length"):
        # Nothing ends a completion before its last token: every length costs what it says.
        trainer.sampler = replace(trainer.sampler, eos_ids=())

    (task,) = trainer.tasks.values()

    def change(wanted: dict[str, Any]) -> None:
        task.k = wanted.get("k", task.k)
        task.max_new_tokens = wanted.get("length", task.max_new_tokens)

    gated(trainer, change=change, always_release=settings.get("always_release", False))
    trainer.train()


if __name__ == "__main__":
    main()
