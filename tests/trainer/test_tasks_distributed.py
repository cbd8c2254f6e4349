"""Two processes make the update that one makes of a step of several tasks, also where each has rows of one alone."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from trainer import CGPOConfig, CGPOTrainer, Task


class EvenLength:
    def judge(self, prompts, completions):
        return [len(completion) % 2 == 0 for completion in completions]


def run(batch: int, folder: str, sizes: tuple[int, int], **config) -> dict:
    """One step of plain SGD on two tasks; completions are greedy, so they do not depend on who makes them."""
    from transformers import LlamaForCausalLM, LlamaForSequenceClassification

    spec = importlib.util.spec_from_file_location("parts", Path(__file__).with_name("conftest.py"))
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    torch.manual_seed(0)
    policy, reference = (LlamaForCausalLM(made._config()) for _ in range(2))
    prompts = {"crpg": ["a", "bc", "def", "ghij"], "crraft": ["a b", "c.", "0", "12"]}
    tasks = [
        Task(
            name=name, rlhf_optimizer=name, batch_size=size, mixture_of_judges=[EvenLength()],
            train_dataset=[{"messages": made.messages(prompt, prompt)} for prompt in prompts[name]],
        )
        for name, size in zip(prompts, sizes, strict=True)
    ]  # fmt: skip
    trainer = CGPOTrainer(
        model=policy,
        ref_model=reference,
        reward_model=LlamaForSequenceClassification(made._config(num_labels=1)),
        args=CGPOConfig(
            output_dir=folder, k=2, temperature=1e-6, max_new_tokens=6, kl_threshold=1e4, max_steps=1,
            per_device_train_batch_size=batch, optim="sgd", learning_rate=0.1, max_grad_norm=0.0, use_cpu=True,
            save_strategy="no", report_to="none", disable_tqdm=True, logging_steps=1, **config,
        ),
        processing_class=made._tokenizer(),
        tasks=tasks,
    )  # fmt: skip
    before = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
    trainer.train()
    after = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
    rows = [(row.task, row.index) for row in trainer._iteration.rows]
    logged = next(line for line in trainer.state.log_history if "num/sent" in line)
    return {"rows": rows, "update": (after - before).tolist(), "logged": logged}


STEPS = {"one row of each task": (1, (1, 1)), "mixed": (2, (3, 1))}


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> list[dict[str, dict]]:
    """What each of two processes found, by the name of the step."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    shared["PYTHONPATH"] = str(Path(__file__).parents[2])
    found = [tmp_path_factory.mktemp("found") / f"{rank}.json" for rank in range(2)]
    started = [
        subprocess.Popen(
            [sys.executable, __file__, str(path)],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank, path in enumerate(found)
    ]
    try:
        assert [process.wait(280) for process in started] == [0, 0]
    finally:
        for process in started:
            process.kill()
            process.wait()
    return [json.loads(path.read_text()) for path in found]


@pytest.mark.parametrize("name", STEPS)
def test_two_processes_make_the_update_of_one(name, two_processes, tmp_path):
    batch, sizes = STEPS[name]
    first, second = (found[name] for found in two_processes)
    alone = run(2 * batch, str(tmp_path / "alone"), sizes)
    assert sorted(map(tuple, first["rows"] + second["rows"])) == sorted(alone["rows"])
    if sizes == (1, 1):
        assert {len({task for task, _ in found["rows"]}) for found in (first, second)} == {1}
    assert first["update"] == second["update"]
    assert max(abs(x) for x in alone["update"]) > 1e-4
    assert first["update"] == pytest.approx(alone["update"], abs=1e-5)
    for metric in ("loss", "task/crpg/score/mean", "task/crraft/score/mean"):
        assert first["logged"][metric] == pytest.approx(alone["logged"][metric], abs=1e-4)


def main(path: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        found = {
            name: run(batch, f"{scratch}/{batch}", sizes, ddp_backend="gloo") for name, (batch, sizes) in STEPS.items()
        }
        path.write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
