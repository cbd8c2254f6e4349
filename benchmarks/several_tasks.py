"""Three tasks with three optimizers on a tiny model, added as the paper does and balanced.

    python -m benchmarks.several_tasks

The policy is that of `benchmarks/learns.py`. Each task wants another letter in the completion, and all of them fit into
one: crpg an a, codpo a b, crraft a c. Prints, per arm and seed, each task's mean satisfied rate in the first ten steps
and in the last ten.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.learns import LETTERS, WINDOW, build_models, build_tokenizer
from trainer import CGPOConfig, CGPOTrainer, Task

ARMS: dict[str, dict[str, Any]] = {
    "as they are": {},
    "balanced": {"balance_task_gradients": True},
    "balanced, adaptive": {"balance_task_gradients": True, "task_weight_rate": 0.1},
}
OPTIMIZERS = {"a": "crpg", "b": "codpo", "c": "crraft"}
PROMPTS = 6


class Contains:
    """Satisfied where a letter is in the completion."""

    def __init__(self, letter: str) -> None:
        self.letter = letter

    def judge(self, prompts: list[Any], completions: list[str]) -> list[bool]:
        """Return one boolean per completion."""
        return [self.letter in completion for completion in completions]


def satisfied_rates(settings: dict[str, Any], seed: int, num_steps: int, folder: Path) -> dict[str, list[float]]:
    """Return the satisfied rate of every step of one run, task by task."""
    policy, reward_model = build_models(seed)
    tasks = []
    for number, (letter, optimizer) in enumerate(OPTIMIZERS.items()):
        prompts = LETTERS[number * PROMPTS : (number + 1) * PROMPTS]
        rows = [
            {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": letter}]}
            for prompt in prompts
        ]
        judges = [Contains(letter)]
        tasks.append(Task(name=letter, train_dataset=rows, mixture_of_judges=judges, rlhf_optimizer=optimizer))
    trainer = CGPOTrainer(
        model=policy,
        reward_model=reward_model,
        tasks=tasks,
        args=CGPOConfig(
            output_dir=str(folder), k=8, max_new_tokens=5, kl_threshold=100.0, per_device_train_batch_size=12,
            max_steps=num_steps, learning_rate=1e-2, generation_chunk_size=96, logging_steps=1, seed=seed,
            use_cpu=True, save_strategy="no", report_to="none", disable_tqdm=True, log_completions=False, **settings,
        ),
        processing_class=build_tokenizer(),
    )  # fmt: skip
    trainer.train()
    logs = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    names = {letter: f"task/{letter}/constraint/satisfied_rate" for letter in OPTIMIZERS}
    return {letter: [log[name] for log in logs if name in log] for letter, name in names.items()}


def main() -> None:
    """Run the arms and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--steps", type=int, default=100, help="of each run")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    columns = "".join(f"{f'{letter}: {optimizer}':>16}" for letter, optimizer in OPTIMIZERS.items())
    print(f"{'arm':20} {'seed':>4}{columns}")
    for arm in given.arms:
        for seed in range(given.seeds):
            with tempfile.TemporaryDirectory() as folder:
                rates = satisfied_rates(ARMS[arm], seed, given.steps, Path(folder))
            cells = [f"{_mean(found[:WINDOW]):.2f} -> {_mean(found[-WINDOW:]):.2f}" for found in rates.values()]
            print(f"{arm:20} {seed:4}" + "".join(f"{cell:>16}" for cell in cells), flush=True)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


if __name__ == "__main__":
    main()
