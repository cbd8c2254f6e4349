"""Two processes make the update that one makes of the same rows, and share the rows between them."""

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

from trainer import CGPOConfig, CGPOTrainer

# Not codpo: completions are greedy here, and two equal ones are no pair.
NAMES = ("crpg", "crraft")


class EvenLength:
    def judge(self, prompts, completions):
        return [len(completion) % 2 == 0 for completion in completions]


def parts():
    spec = importlib.util.spec_from_file_location("parts", Path(__file__).with_name("conftest.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(name: str, batch: int, folder: str, **config) -> dict:
    """One step of plain SGD on eight rows; completions are greedy, so they do not depend on who makes them."""
    from transformers import LlamaForCausalLM, LlamaForSequenceClassification

    made = parts()
    torch.manual_seed(0)
    policy, reference = (LlamaForCausalLM(made._config()) for _ in range(2))
    reward_model = LlamaForSequenceClassification(made._config(num_labels=1))
    prompts = ["a", "bc", "def", "ghij", "a b", "c.", "0", "12"]
    trainer = CGPOTrainer(
        model=policy,
        ref_model=reference,
        reward_model=reward_model,
        mixture_of_judges=[EvenLength()],
        args=CGPOConfig(
            output_dir=folder, rlhf_optimizer=name, k=2, temperature=1e-6, max_new_tokens=6, kl_threshold=1e4,
            max_steps=1, per_device_train_batch_size=batch, optim="sgd", learning_rate=0.1, max_grad_norm=0.0,
            use_cpu=True, save_strategy="no", report_to="none", disable_tqdm=True, logging_steps=1, **config,
        ),
        processing_class=made._tokenizer(),
        train_dataset=[{"messages": made.messages(prompt, prompt)} for prompt in prompts],
    )  # fmt: skip
    before = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
    trainer.train()
    after = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
    rows = [row.index for row in trainer._iteration.rows]
    drawn = float(torch.rand(()))
    logged = next(line for line in trainer.state.log_history if "num/sent" in line)
    return {"rows": rows, "update": (after - before).tolist(), "drawn": drawn, "logged": logged}


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> list[dict[str, dict]]:
    """What each of two processes found, by the name of the loss."""
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


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_make_the_update_of_one(name, two_processes, tmp_path):
    first, second = (found[name] for found in two_processes)
    alone = run(name, 8, str(tmp_path / "alone"))
    assert sorted(first["rows"] + second["rows"]) == sorted(alone["rows"]) == list(range(8))
    assert first["update"] == second["update"]
    assert first["drawn"] != second["drawn"]  # each samples with random numbers of its own
    assert max(abs(x) for x in alone["update"]) > 1e-4
    assert first["update"] == pytest.approx(alone["update"], abs=1e-5)
    assert first["logged"]["num/sent"] == 8  # per process: 4 prompts, 2 completions each
    assert first["logged"]["score/mean"] == pytest.approx(alone["logged"]["score/mean"], abs=1e-4)
    assert first["logged"]["loss"] == pytest.approx(alone["logged"]["loss"], abs=1e-4)


def main(path: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        path.write_text(json.dumps({name: run(name, 4, f"{scratch}/{name}", ddp_backend="gloo") for name in NAMES}))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
