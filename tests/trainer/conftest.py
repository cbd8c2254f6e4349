"""Parts for the trainer's tests: a tokenizer of single characters and models of a few thousand parameters.

Builders are fixtures that return functions, so that a test file needs no import of this one.
"""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
import uvicorn
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

from trainer.batch import ScoredRollout
from trainer.cgpo_trainer import CGPOTrainer
from trainer.config import CGPOConfig
from trainer.dataset import PromptDataset, Row

TEMPLATE = (
    "{% for m in messages %}<{{ m['role'][0] }}>{{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}<eos>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}"
)
SPECIAL = ["<pad>", "<eos>", "<unk>", "<u>", "<a>", "<s>"]
LETTERS = "abcdefghij .0123456789"


@pytest.fixture(autouse=True)
def _one_thread(request: pytest.FixtureRequest) -> Iterator[None]:
    # Models this small are slower on several threads, and much slower on a busy machine; real ones are not.
    before = torch.get_num_threads()
    if request.node.get_closest_marker("slow") is None:
        torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _same_random_numbers() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def _tokenizer(**changes: Any) -> PreTrainedTokenizerFast:
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *LETTERS])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    inner.decoder = decoders.Fuse()
    named = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>", **changes}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, padding_side="left", **named)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<u>", "<a>", "<s>"]})
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def _config(**changes: Any) -> LlamaConfig:
    settings = {
        "vocab_size": len(SPECIAL) + len(LETTERS),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 128,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": 1,
        "tie_word_embeddings": False,
        "initializer_range": 0.3,
    }
    return LlamaConfig(**{**settings, **changes})


@pytest.fixture
def build_tokenizer() -> Callable[..., PreTrainedTokenizerFast]:
    return _tokenizer


@pytest.fixture
def build_policy() -> Callable[..., LlamaForCausalLM]:
    def build(seed: int = 0, **changes: Any) -> LlamaForCausalLM:
        torch.manual_seed(seed)
        return LlamaForCausalLM(_config(**changes)).eval()

    return build


@pytest.fixture
def build_reward_model() -> Callable[..., LlamaForSequenceClassification]:
    def build(seed: int = 1, **changes: Any) -> LlamaForSequenceClassification:
        torch.manual_seed(seed)
        return LlamaForSequenceClassification(_config(**{"num_labels": 1, **changes})).eval()

    return build


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return _tokenizer()


@pytest.fixture
def policy(build_policy: Callable[..., LlamaForCausalLM]) -> LlamaForCausalLM:
    return build_policy()


@pytest.fixture
def reward_model(build_reward_model: Callable[..., Any]) -> LlamaForSequenceClassification:
    return build_reward_model()


def messages(prompt: str, answer: str | None = None) -> list[dict[str, str]]:
    turns = [{"role": "user", "content": prompt}]
    return turns if answer is None else [*turns, {"role": "assistant", "content": answer}]


@pytest.fixture
def conversation() -> Callable[..., list[dict[str, str]]]:
    return messages


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    """Eight rows with baselines; prompts and baselines of several lengths."""
    prompts = ["a", "bc", "def", "ghij", "a b", "c.", "0", "12"]
    return [{"messages": messages(prompt, prompt[::-1])} for prompt in prompts]


class HasNoA:
    """Satisfied where the letter a is missing."""

    def judge(self, prompts: list[Any], completions: list[str]) -> list[bool]:
        return ["a" not in completion for completion in completions]


@pytest.fixture
def has_no_a() -> HasNoA:
    return HasNoA()


@pytest.fixture
def build_config(tmp_path: Path) -> Callable[..., CGPOConfig]:
    def build(**changes: Any) -> CGPOConfig:
        settings = {
            "output_dir": str(tmp_path / "run"),
            "k": 4,
            "max_new_tokens": 6,
            "kl_threshold": 50.0,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-2,
            "max_steps": 2,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
        }
        return CGPOConfig(**{**settings, **changes})

    return build


@pytest.fixture
def build_trainer(
    build_config: Callable[..., CGPOConfig],
    build_policy: Callable[..., Any],
    build_reward_model: Callable[..., Any],
    rows: list[dict[str, Any]],
) -> Callable[..., CGPOTrainer]:
    """A trainer of tiny parts; keywords replace the parts, `config` the settings."""

    def build(config: dict[str, Any] | None = None, **parts: Any) -> CGPOTrainer:
        defaults = {
            "mixture_of_judges": [HasNoA()],
            "processing_class": _tokenizer(),
            "train_dataset": rows,
        }
        arguments = {**defaults, **parts}
        for name, builder in (("model", build_policy), ("reward_model", build_reward_model)):
            if name not in arguments:
                arguments[name] = builder()
        return CGPOTrainer(args=build_config(**(config or {})), **arguments)

    return build


@pytest.fixture
def build_row() -> Callable[..., Row]:
    def build(prompt: str = "ab", **columns: Any) -> Row:
        return PromptDataset([{"messages": messages(prompt), **columns}], _tokenizer(), 128, 8, "rows")[0]

    return build


@pytest.fixture
def build_scored() -> Callable[..., ScoredRollout]:
    """A scored rollout of given tensors; the others are plain: all known and satisfied, one judge, ratios 0."""

    def build(scores: list[list[float]], dtype: torch.dtype = torch.float32, **given: Any) -> ScoredRollout:
        scores_BK = torch.tensor(scores, dtype=dtype)
        num_prompts, k = scores_BK.shape
        known = torch.tensor(given.pop("known", [[True] * k] * num_prompts))
        satisfied = torch.tensor(given.pop("satisfied", [[True] * k] * num_prompts)) & known
        judge_known = known[:, :, None] & torch.tensor(given.pop("judge_known", [[[True]] * k] * num_prompts))
        judge_satisfied = torch.tensor(given.pop("judge_satisfied", satisfied[:, :, None].tolist()))
        logratios = torch.tensor(given.pop("logratios", [[0.0] * k] * num_prompts), dtype=dtype)
        ref_logprobs = torch.full_like(scores_BK, -10.0)
        tensors = {
            "scores_BK": scores_BK,
            "satisfied_BK": satisfied,
            "known_BK": known,
            "judges": tuple("abc"[: judge_known.shape[2]]),
            "judge_satisfied_BKJ": judge_satisfied & judge_known,
            "judge_known_BKJ": judge_known,
            "logprobs_BK": ref_logprobs + logratios,
            "ref_logprobs_BK": ref_logprobs,
            "lengths_BK": torch.full((num_prompts, k), 4),
            "baseline_scores_B": torch.zeros(num_prompts, dtype=dtype),
            "baseline_known_B": torch.ones(num_prompts, dtype=torch.bool),
            "baseline_satisfied_B": torch.ones(num_prompts, dtype=torch.bool),
            "baseline_logprobs_B": torch.zeros(num_prompts, dtype=dtype),
            "baseline_logratios_B": torch.zeros(num_prompts, dtype=dtype),
        }
        return ScoredRollout(**{**tensors, **given})

    return build


@contextmanager
def _serving(app: Any, port: int = 0) -> Iterator[str]:
    """An app on a real loopback socket, in a thread of its own."""
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started:
        if time.monotonic() > deadline or not thread.is_alive():
            raise RuntimeError("the service did not start")
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)


@pytest.fixture(scope="session")
def serving() -> Callable[..., Any]:
    return _serving


@pytest.fixture(scope="session")
def judge_app() -> Callable[[], Any]:
    # The test process may import both; in the packages themselves that is forbidden.
    from judge_service.app import create_app
    from judge_service.settings import JudgeSettings

    return lambda: create_app(JudgeSettings(workers=1, require_sandbox=False))


@pytest.fixture(scope="session")
def judge_url(judge_app: Callable[[], Any]) -> Iterator[str]:
    """The real judge service."""
    with _serving(judge_app()) as url:
        _until_ready(url)
        yield url


@pytest.fixture(scope="session")
def reward_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The real reward service, with the policy's tokenizer and template."""
    from reward_service.app import create_app
    from reward_service.settings import RewardSettings

    folder = tmp_path_factory.mktemp("reward_model")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        LlamaForSequenceClassification(_config(num_labels=1)).save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    with _serving(create_app(RewardSettings(model=str(folder), device="cpu", dtype="float32"))) as url:
        _until_ready(url)
        yield url


def _until_ready(url: str) -> None:
    deadline = time.monotonic() + 60
    while httpx.get(f"{url}/readyz").status_code != 200:
        assert time.monotonic() < deadline, httpx.get(f"{url}/readyz").text
        time.sleep(0.05)


@pytest.fixture
def free_url() -> str:
    """A URL at which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def logs():
    """Returns the lines of a trainer's metrics file."""

    def read(trainer) -> list[dict]:
        lines = (Path(trainer.args.output_dir) / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    return read
