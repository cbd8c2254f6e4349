"""The adapters under the request code of the clients that they are for, where that is installed; else it is skipped.

The wheels are no part of the development install: `scripts/test-adapters` makes an environment that has them.
"""

import asyncio
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from trainer.adapters import reward_func


def needs(*packages: str) -> pytest.MarkDecorator:
    """Skips a test before its services start, where a package is not installed."""
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} not installed")


def module_of(package: str, path: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """One file of an installed package, without the rest of it, which wants a GPU."""
    found = importlib.util.find_spec(package)
    assert found is not None
    assert found.origin is not None
    spec = importlib.util.spec_from_file_location(f"its_{Path(path).stem}", Path(found.origin).parent / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


@needs("trl")
@pytest.mark.filterwarnings("default")  # what TRL warns about is TRL's
def test_trls_grpo_trainer_trains_two_steps_on_our_rewards(
    services: tuple[str, str], tiny_folders: tuple[Path, Path], tmp_path: Path
) -> None:
    import trl

    model = AutoModelForCausalLM.from_pretrained(tiny_folders[0])
    tokenizer = AutoTokenizer.from_pretrained(tiny_folders[0])
    rows = [{"prompt": "ab", "ground_truth": "3"}, {"prompt": "b", "ground_truth": None}] * 4
    judged = reward_func(services[0], "word_count:max=4")
    rewards: list[float | None] = []

    def kept(**given: Any) -> list[float | None]:
        rewards.extend(judged(**given))
        return rewards[-len(given["prompts"]) :]

    trainer = trl.GRPOTrainer(
        model=model,
        reward_funcs=[kept, reward_func(services[0], "math_answer")],
        args=trl.GRPOConfig(
            output_dir=str(tmp_path), per_device_train_batch_size=4, num_generations=4, max_completion_length=8,
            max_steps=2, logging_steps=1, report_to="none", use_cpu=True, bf16=False, save_strategy="no",
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )  # fmt: skip
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "rewards/math_answer/mean" in entry]
    assert len(logs) == 2
    assert rewards
    assert set(rewards) <= {0.0, 1.0}


@needs("openrlhf", "aiohttp")
def test_openrlhfs_executor_fetches_rewards_of_both_services(
    services: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logging = types.ModuleType("openrlhf.utils.logging_utils")
    logging.init_logger = lambda name: __import__("logging").getLogger(name)  # type: ignore[attr-defined]
    spec = importlib.util.find_spec("openrlhf")
    for name in ("openrlhf", "openrlhf.utils"):
        package = types.ModuleType(name)
        package.__spec__ = spec
        monkeypatch.setitem(sys.modules, name, package)
    monkeypatch.setitem(sys.modules, "openrlhf.utils.logging_utils", logging)
    agent = module_of("openrlhf", "utils/agent.py", monkeypatch)
    judges, rewards = services
    rows = (["ab c</s>", "ab d"], ["ab", "ab"], ["", ""])
    for url in (f"{judges}/get_reward?judges=word_count:max=1", f"{rewards}/get_reward"):
        [answer] = asyncio.run(agent.SingleTurnAgentExecutor(url)._fetch_rewards_via_http(*rows))
        assert len(answer["rewards"]) == len(answer["scores"]) == 2
        assert all(isinstance(reward, float) for reward in answer["rewards"])


@needs("verl", "requests")
def test_verls_sandbox_client_counts_the_cases_that_pass(code_service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client = module_of("verl", "utils/reward_score/sandbox_fusion/utils.py", monkeypatch)
    program = "n = int(input())\nprint(10 // n)"
    cases = {"inputs": ["2\n", "0\n", "5\n"], "outputs": ["5\n", "0\n", "3\n"]}
    results, details = client.check_correctness(f"{code_service}/run_code", cases, program, timeout=10)
    assert results == [True, -2, False]  # passes; its program fails; another output
    assert [detail["status"] for detail in details] == ["success", "runtime_error", "wrong_answer"]
    function = {"inputs": ["[1, 2]\n3"], "outputs": ["6"], "fn_name": "total"}
    program = "def total(numbers, more): return sum(numbers) + more"
    assert client.check_correctness(f"{code_service}/run_code", function, program)[0] == [True]


@needs("verl")
def test_verl_loads_our_reward_function_by_its_name(services: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    imports = module_of("verl", "utils/import_utils.py", monkeypatch)
    compute_score = imports.load_extern_object("pkg://trainer.adapters.verl", "compute_score")
    settings = {"url": services[0], "judges": "math_answer"}
    row = {"data_source": "gsm8k", "solution_str": r"\boxed{42}", "ground_truth": "42", "extra_info": {"index": 1}}
    assert asyncio.run(compute_score(**row, **settings))["score"] == 1.0


@needs("sandbox_fusion")
@pytest.mark.filterwarnings("default")
def test_sandbox_fusions_own_client_runs_a_program(code_service: str) -> None:
    import sandbox_fusion as client

    request = client.RunCodeRequest(code="print(int(input()) * 2)", stdin="21\n", language="python")
    answer = client.run_code(request, endpoint=code_service)
    assert (answer.status, answer.run_result.stdout) == ("Success", "42\n")
    with pytest.raises(Exception, match="python only"):
        client.run_code(client.RunCodeRequest(code="x", language="cpp"), endpoint=code_service, max_attempts=1)


@needs("cohere")
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_coheres_client_reranks(services: tuple[str, str], version: str) -> None:
    import cohere

    client = {"v1": cohere.Client, "v2": cohere.ClientV2}[version]("token", base_url=services[1])
    with client:
        answer = client.rerank(model="any", query="ab", documents=["a", "b c", "c"], top_n=2)
    scores = [result.relevance_score for result in answer.results]
    assert len(scores) == 2
    assert scores == sorted(scores, reverse=True)
