"""Two processes make the update that one makes of the same rows: each with all weights, and with weights sharded."""

import importlib.util
import json
import os
import random
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor

from trainer import CGPOConfig, CGPOTrainer
from trainer.loss import LOSSES
from trainer.multipliers import load_multipliers

# Beside every loss on given completions: completions that are generated, and an adapter that is trained.
CASES = (*LOSSES, "generated", "adapter")
pytestmark = pytest.mark.timeout(1000)  # two processes start twice and make 24 runs: much on a busy machine
PROMPTS = ["a", "bc", "def", "ghij", "a b", "c.", "0", "12"]


class EvenLength:
    def judge(self, prompts, completions):
        return [len(completion) % 2 == 0 for completion in completions]


class FakeSampler:
    """Gives completions that depend on their prompt alone: those of a prompt differ, whoever asks gets the same."""

    def __init__(self, real) -> None:
        self.real = real

    def sample(self, model, prompts, k, temperature, on_chunk, max_new_tokens):
        drawn = [random.Random(str(list(prompt))) for prompt in prompts]
        groups = [[self.real.completion([d.randrange(1, 28) for _ in range(5)]) for _ in range(k)] for d in drawn]
        on_chunk(0, groups)
        return groups


def parts():
    spec = importlib.util.spec_from_file_location("parts", Path(__file__).with_name("conftest.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def shard_on_cpu() -> None:
    """Let accelerate shard (FSDP2), which it does on accelerators only; all that it then calls runs on CPUs too."""
    from accelerate import Accelerator, PartialState
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    state = Accelerator(cpu=True).state
    PartialState().distributed_type = state.distributed_type = DistributedType.FSDP
    state.fsdp_plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        state_dict_type="FULL_STATE_DICT",
        cpu_ram_efficient_loading=False,
    )


def weights(model) -> torch.Tensor:
    whole = [p.full_tensor() if isinstance(p, DTensor) else p for p in model.parameters()]
    return torch.cat([p.detach().flatten() for p in whole])


def build(case: str, folder: str, batch: int, sharded: bool, config: dict) -> CGPOTrainer:
    from peft import LoraConfig
    from transformers import LlamaForCausalLM, LlamaForSequenceClassification

    args = CGPOConfig(
        output_dir=folder, rlhf_optimizer=case if case in LOSSES else "crpg", k=2, temperature=1e-6, max_new_tokens=6,
        kl_threshold=1e4, max_steps=2, per_device_train_batch_size=batch, optim="sgd", learning_rate=0.1,
        max_grad_norm=0.0, use_cpu=True, save_strategy="steps", save_steps=2, report_to="none", disable_tqdm=True,
        logging_steps=1, per_device_eval_batch_size=2, **config,
    )  # fmt: skip
    if sharded:
        shard_on_cpu()
    made, adapter = parts(), LoraConfig(r=4, target_modules=["q_proj", "v_proj"]) if case == "adapter" else None
    torch.manual_seed(0)
    policy, reference = (LlamaForCausalLM(made._config(tie_word_embeddings=case == "generated")) for _ in range(2))
    trainer = CGPOTrainer(
        model=policy,
        ref_model=None if adapter else reference,
        reward_model=LlamaForSequenceClassification(made._config(num_labels=1)),
        mixture_of_judges=[EvenLength()],
        args=args,
        processing_class=made._tokenizer(),
        train_dataset=[{"messages": made.messages(prompt, prompt)} for prompt in PROMPTS],
        eval_dataset=[{"messages": made.messages(prompt)} for prompt in PROMPTS[:5]],
        peft_config=adapter,
    )
    if case in LOSSES:
        trainer.sampler = FakeSampler(trainer.sampler)
    return trainer


def run(case: str, folder: str, batch: int, sharded: bool = False, **config) -> dict:
    """Two steps of plain SGD on eight rows, then an evaluation; generated completions are greedy."""
    trainer = build(case, folder, batch, sharded, config)
    before = weights(trainer.model)
    if case == "generated":
        trainer.evaluate()  # what the model can is asked while it is whole; of the others while it is sharded
    trainer.train()
    update = weights(trainer.model) - before
    found = {
        "rows": [row.index for row in trainer._iteration.rows],
        "update": update.tolist(),
        "drawn": float(torch.rand(())),
        "kind": type(trainer.model).__name__,
        "logged": [line for line in trainer.state.log_history if "num/sent" in line],
        "multipliers": dict(load_multipliers(f"{folder}/checkpoint-2", "default")),
    }
    if case not in LOSSES:
        found["evaluated"] = trainer.evaluate()
        trainer.save_model(f"{folder}/model")
    if case == "generated" and trainer.is_world_process_zero():
        saved = load_file(f"{folder}/model/model.safetensors")
        found["saved"] = {name: tensor.tolist() for name, tensor in saved.items() if "norm" in name}
    return found


def two_processes(tmp_path_factory, kind: str) -> list[dict[str, dict]]:
    """What each of two processes found, by case."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    shared["PYTHONPATH"] = str(Path(__file__).parents[2])
    folder = tmp_path_factory.mktemp("found")
    found = [folder / f"{rank}.json" for rank in range(2)]
    started = [
        subprocess.Popen(
            [sys.executable, __file__, str(path), kind, str(folder)],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank, path in enumerate(found)
    ]
    try:
        assert [process.wait(900) for process in started] == [0, 0]
    finally:
        for process in started:
            process.kill()
            process.wait()
    return [json.loads(path.read_text()) for path in found]


@pytest.fixture(scope="module", params=["whole", "sharded"])
def found(request, tmp_path_factory) -> tuple[str, list[dict[str, dict]]]:
    return request.param, two_processes(tmp_path_factory, request.param)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict[str, dict]:
    return {case: run(case, str(tmp_path_factory.mktemp("alone")), 8) for case in CASES}


@pytest.mark.parametrize("case", CASES)
def test_two_processes_make_the_update_of_one(case, found, alone):
    kind, (first, second) = found[0], (one[case] for one in found[1])
    assert first["kind"].startswith("FSDP") == (kind == "sharded")
    assert sorted(first["rows"] + second["rows"]) == list(range(8))
    assert first["update"] == second["update"]
    assert first["drawn"] != second["drawn"]  # each samples with random numbers of its own
    assert max(abs(x) for x in alone[case]["update"]) > 1e-4
    assert first["update"] == pytest.approx(alone[case]["update"], abs=1e-5)
    assert first["multipliers"] == pytest.approx(alone[case]["multipliers"])
    for line, other in zip(first["logged"], alone[case]["logged"], strict=True):
        assert line["num/sent"] == other["num/sent"] == 16  # 8 prompts, 2 completions each
        names = ("loss", "score/mean", "reward/mean", "kl/mean", "constraint/satisfied_rate")
        assert [line.get(name) for name in names] == pytest.approx([other.get(name) for name in names], abs=1e-4)


@pytest.mark.parametrize("case", ["generated", "adapter"])
def test_two_processes_count_every_row_of_an_evaluation_once(case, found, alone):
    # 5 rows in batches of 2: the second process's last batch is filled up with rows that were there before.
    evaluated = found[1][0][case]["evaluated"]
    assert evaluated["eval_num/sent"] == 5
    for name in ("eval_score/mean", "eval_constraint/satisfied_rate", "eval_kl/mean"):
        assert evaluated[name] == pytest.approx(alone[case]["evaluated"][name], abs=1e-4)


def test_the_saved_model_is_whole(found, alone):
    saved = found[1][0]["generated"]["saved"]
    assert saved.keys() == alone["generated"]["saved"].keys()
    for name, values in saved.items():
        assert values == pytest.approx(alone["generated"]["saved"][name], abs=1e-5)


def main(path: Path, kind: str, folder: str) -> None:
    results = {case: run(case, f"{folder}/{case}", 4, kind == "sharded", ddp_backend="gloo") for case in CASES}
    path.write_text(json.dumps(results))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
