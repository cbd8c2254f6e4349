"""The golden pairs that `cgpo fit-reward` leaves in a model's folder, and what the reward service makes of them."""

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from transformers import PreTrainedTokenizerFast

from reward_service.app import create_app
from reward_service.settings import RewardSettings
from trainer import cli
from trainer.fitting.golden import MOST, golden_pairs, write_golden
from trainer.fitting.pairs import Pair, Turns, asked
from wire.base import Message
from wire.golden import GoldenPair

Rows = Callable[[int], list[dict[str, str]]]


def pair(prompt: str, chosen: str = "yes", rejected: str = "no") -> Pair:
    return Pair(asked(prompt), (("assistant", chosen),), (("assistant", rejected),))


def scores_of(pairs: list[Pair], margins: list[float]) -> dict[Turns, float]:
    """Rejected answers score 1, chosen ones as much more as is said."""
    scores = {one.conversations[1]: 1.0 for one in pairs}
    return scores | {one.conversations[0]: 1.0 + margin for one, margin in zip(pairs, margins, strict=True)}


def test_the_surest_pairs_are_golden_one_of_a_prompt_and_none_that_rounding_could_turn(
    byte_tokenizer: PreTrainedTokenizerFast,
) -> None:
    pairs = [pair("a"), pair("a", "yes!"), pair("b"), pair("c"), pair("d")]
    golden = golden_pairs(byte_tokenizer, pairs, scores_of(pairs, [2.0, 3.0, 4.0, 0.9, -5.0]), "bfloat16")
    assert [(one.prompt, one.chosen, one.chosen_score) for one in golden] == [("b", "yes", 5.0), ("a", "yes!", 4.0)]
    assert {(one.rejected, one.rejected_score, one.dtype) for one in golden} == {("no", 1.0, "bfloat16")}


def test_there_are_few_golden_pairs_and_no_long_ones(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    pairs = [pair(str(number)) for number in range(3 * MOST)]
    assert len(golden_pairs(byte_tokenizer, pairs, scores_of(pairs, [2.0] * len(pairs)), "float32")) == MOST
    # A token a byte: 600 are more than the service's start waits for, 50 more than were read of a conversation.
    for long, max_length in ((pair("a", "y" * 600), None), (pair("a", "y" * 50), 40)):
        assert golden_pairs(byte_tokenizer, [long], scores_of([long], [2.0]), "float32", max_length) == []


def test_a_prompt_of_several_turns_stays_messages_and_an_answer_of_several_is_left_out(
    byte_tokenizer: PreTrainedTokenizerFast,
) -> None:
    asked_twice = (("user", "a"), ("assistant", "b"), ("user", "c"))
    several = Pair(asked_twice, (("assistant", "yes"),), (("assistant", "no"),))
    longer = Pair(asked("a"), (("assistant", "yes"), ("user", "sure?"), ("assistant", "yes")), (("assistant", "no"),))
    pairs = [several, longer]
    [golden] = golden_pairs(byte_tokenizer, pairs, scores_of(pairs, [2.0, 3.0]), "float32")
    assert golden.prompt == [Message(role=role, content=content) for role, content in asked_twice]


def test_a_model_that_is_sure_of_nothing_keeps_no_other_models_pairs(tmp_path: Path) -> None:
    file = tmp_path / "golden.jsonl"
    write_golden([GoldenPair(prompt="a", chosen="yes", rejected="no")], tmp_path)
    assert GoldenPair.model_validate_json(file.read_text("utf-8")).chosen == "yes"
    write_golden([], tmp_path)
    assert not file.exists()


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, base_folder: Path, good_and_bad: Rows) -> Path:
    """The folder of a reward model that `cgpo fit-reward` has made."""
    folder, file = tmp_path / "reward", tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in good_and_bad(40)), encoding="utf-8")
    options = ["--base", base_folder, "--held-out", 0.2, "--weight-decay", 0.003, "--output", folder]
    monkeypatch.setattr(sys, "argv", list(map(str, ["cgpo", "fit-reward", file, *options])))
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    return folder


def ready(folder: Path, dtype: str) -> httpx.Response:
    """What the reward service's readyz says of a model once it has been loaded and tested."""
    app = create_app(RewardSettings(model=str(folder), device="cpu", dtype=dtype))

    async def ask() -> httpx.Response:
        async with app.router.lifespan_context(app):
            await app.state.batcher.loaded()
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
                return await client.get("/readyz")

    return asyncio.run(ask())


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_fitted_model_is_known_again_in_the_type_it_was_fitted_in_and_in_a_finer_one(
    fitted: Path, dtype: str
) -> None:
    report = json.loads((fitted / "training_report.json").read_text("utf-8"))
    assert report["golden_pairs"] == len((fitted / "golden.jsonl").read_text("utf-8").splitlines()) > 0
    assert ready(fitted, dtype).status_code == 200


def test_another_template_or_pad_token_of_a_fitted_model_is_a_503(fitted: Path) -> None:
    template = (fitted / "chat_template.jinja").read_text("utf-8")
    (fitted / "chat_template.jinja").write_text("{% for m in messages %}{{ m['content'] }} {% endfor %}", "utf-8")
    answer = ready(fitted, "bfloat16")
    assert answer.status_code == 503
    assert "golden pair" in answer.json()["reasons"][0]
    (fitted / "chat_template.jinja").write_text(template, "utf-8")
    config = json.loads((fitted / "config.json").read_text("utf-8"))
    newline = 3 + 198  # behind the three control tokens, in the byte-level alphabet's order
    (fitted / "config.json").write_text(json.dumps(config | {"pad_token_id": newline}), "utf-8")
    answer = ready(fitted, "bfloat16")
    assert answer.status_code == 503
    assert "golden pair" in answer.json()["reasons"][0]
