"""The worker of benchmarks/step.py that trains with TRL's GRPOTrainer, in an interpreter that has it.

One optimizer step generates once, for all its completions (`steps_per_generation` is the number of micro-batches, its
default), compares with the reference (`beta` > 0) and updates once.
"""

import json
import sys
import tempfile
import time
from collections import defaultdict
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging
from trl import GRPOConfig, GRPOTrainer

from benchmarks.lockstep import PROMPTS, gated

TIMERS: dict[str, float] = defaultdict(float)


def reward_of_words(completions: list[list[dict[str, str]]], **_: Any) -> list[float]:
    """Return a reward that costs nothing: shorter words are better."""
    return [-len(one[0]["content"]) / (1 + len(one[0]["content"].split())) for one in completions]


def reward_of_services(judge_url: str, reward_url: str) -> Any:
    """Return a reward that asks the same judges and the same reward model as the other side: the score, or nothing."""
    from benchmarks.step_judges import JUDGES
    from trainer.adapters.trl import reward_func
    from wire import JudgeSpec, RewardClient, ScoreItem
    from wire.base import Message

    judged = reward_func(judge_url, [JudgeSpec(name=name, parameters=own) for name, own in JUDGES.items()])
    client = RewardClient(reward_url)

    def reward(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float | None]:
        items = [
            ScoreItem(id=str(i), prompt=[Message(**message) for message in prompt], completion=completion[0]["content"])
            for i, (prompt, completion) in enumerate(zip(prompts, completions, strict=True))
        ]
        scores = client.submit(items)
        verdicts = judged(prompts, completions, **columns)
        return [verdict and one.score for verdict, one in zip(verdicts, scores.result().results, strict=True)]

    return reward


class TimedTrainer(GRPOTrainer):
    """GRPOTrainer with a clock on its parts."""

    def _timed(self, part: str, call: Any, *args: Any, **named: Any) -> Any:
        started = time.perf_counter()
        try:
            return call(*args, **named)
        finally:
            TIMERS[part] += time.perf_counter() - started

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        TIMERS.clear()
        return super()._generate_and_score_completions(inputs)

    def _generate(self, *args: Any, **named: Any) -> Any:
        return self._timed("generate", super()._generate, *args, **named)

    def _calculate_rewards(self, *args: Any, **named: Any) -> Any:
        return self._timed("judge", super()._calculate_rewards, *args, **named)

    def _get_per_token_logps_and_entropies(self, *args: Any, **named: Any) -> Any:
        if torch.is_grad_enabled():
            return super()._get_per_token_logps_and_entropies(*args, **named)
        return self._timed("logprobs", super()._get_per_token_logps_and_entropies, *args, **named)


def main() -> None:
    """Train until the other end is done."""
    transformers_logging.set_verbosity_error()
    settings = json.loads(sys.argv[1])
    batch = settings["micro_batch"]
    services = [settings[name] for name in ("judge_url", "reward_url") if settings.get(name)]
    peft_config = None
    if settings.get("lora"):
        from peft import LoraConfig

        peft_config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = TimedTrainer(
        model=AutoModelForCausalLM.from_pretrained(settings["policy"], dtype=getattr(torch, settings["weights"])),
        reward_funcs=reward_of_services(*services) if services else reward_of_words,
        args=GRPOConfig(
            output_dir=tempfile.mkdtemp(prefix="peer-step-"), num_generations=8,
            max_completion_length=settings["length"],
            temperature=1.0, beta=0.04, per_device_train_batch_size=batch,
            gradient_accumulation_steps=len(PROMPTS) * 8 // batch, max_steps=10_000, learning_rate=1e-6,
            lr_scheduler_type="constant", gradient_checkpointing=False, bf16=settings["weights"] == "float32",
            use_cpu=True, shuffle_dataset=False, dataloader_pin_memory=False, logging_steps=1, save_strategy="no",
            report_to="none", disable_tqdm=True, **settings.get("config", {}),
        ),
        processing_class=AutoTokenizer.from_pretrained(settings["policy"]),
        train_dataset=_dataset(),
        peft_config=peft_config,
    )  # fmt: skip
    gated(trainer, TIMERS)
    trainer.train()


def _dataset() -> Any:
    from datasets import Dataset

    return Dataset.from_list([{"prompt": [{"role": "user", "content": prompt}]} for prompt in PROMPTS])


if __name__ == "__main__":
    main()
