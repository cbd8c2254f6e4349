"""What keeps a service from being ready: a wrong pad token, a wrong template, scores that are not the known ones."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from reward_service.errors import ModelRefused
from reward_service.model import RewardModel, check_model
from reward_service.settings import RewardSettings

Save = Callable[..., Path]
Post = Callable[..., httpx.Response]
PAIRS = [("Name a fruit.", "An apple.", "No."), ("2 + 2?", "4", "a house"), ("Count.", "one two three", "one")]


def load(folder: Path, **settings: object) -> RewardModel:
    return check_model(RewardSettings(**{"model": str(folder), "dtype": "float32", **settings})).load()


def change(file: Path, **changes: object) -> None:
    content = json.loads(file.read_text("utf-8"))
    file.write_text(json.dumps(content | changes), encoding="utf-8")


@pytest.fixture
def golden(save: Save) -> Path:
    """A model's folder with golden pairs: its own scores, the better answer called the chosen one."""
    folder = save()
    model = load(folder)
    lines = []
    for prompt, *answers in PAIRS:
        rows = [model.encode(prompt, answer).ids for answer in answers]
        (worse, rejected), (better, chosen) = sorted(zip(model.score(rows), answers, strict=True))
        lines.append({"prompt": prompt, "chosen": chosen, "rejected": rejected, "chosen_score": better})
        lines[-1]["rejected_score"] = worse
    (folder / "golden.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder


def test_a_model_whose_golden_pairs_score_as_known_is_ready(golden: Path, request_to: Post) -> None:
    assert load(golden).self_test() == []
    assert request_to("GET", "/readyz", golden).status_code == 200


def test_bfloat16_scores_stay_within_its_stated_tolerance(golden: Path) -> None:
    assert load(golden, dtype="bfloat16").self_test() == []


def test_a_wrong_template_moves_the_golden_scores_and_readyz_says_so(golden: Path, request_to: Post) -> None:
    template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    (golden / "chat_template.jinja").write_text(template, encoding="utf-8")
    ready = request_to("GET", "/readyz", golden)
    assert ready.status_code == 503
    [reason] = ready.json()["reasons"]
    assert "golden pair 1 scores" in reason
    assert "pad token, chat template" in reason


def test_a_wrong_pad_token_moves_the_golden_scores_and_readyz_says_so(golden: Path, request_to: Post) -> None:
    # 13 is the newline (byte 10 as the byte-level alphabet sorts), with which every conversation of this template ends.
    newline = load(golden).encode("Hi", "Hi").ids[-1]
    change(golden / "config.json", pad_token_id=newline)
    ready = request_to("GET", "/readyz", golden)
    assert ready.status_code == 503
    assert "golden pair" in ready.json()["reasons"][0]


def test_the_golden_pairs_of_a_model_on_the_hub_are_tested_too(
    golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What the hub's client keeps of a model that it has fetched once.
    repository = tmp_path / "cache" / "models--org--reward"
    shutil.copytree(golden, repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc", encoding="utf-8")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(repository.parent))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert load(Path("org/reward")).self_test() == []
    kept = repository / "snapshots" / "abc" / "golden.jsonl"
    kept.write_text(kept.read_text("utf-8").replace("Name a fruit.", "Name a tree."), encoding="utf-8")
    [reason] = load(Path("org/reward")).self_test()
    assert "golden pair 1 scores" in reason


def test_a_pair_in_the_wrong_order_is_named(golden: Path) -> None:
    lines = [json.loads(line) for line in (golden / "golden.jsonl").read_text("utf-8").splitlines()]
    lines[1] = {"prompt": lines[1]["prompt"], "chosen": lines[1]["rejected"], "rejected": lines[1]["chosen"]}
    (golden / "golden.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    [reason] = load(golden).self_test()
    assert "golden pair 2 is in the wrong order" in reason


def test_a_line_that_is_no_pair_is_refused_by_its_number(golden: Path) -> None:
    with (golden / "golden.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"prompt": "p", "chosen": "c"}\n')
    with pytest.raises(ModelRefused, match=r"golden\.jsonl line 4 is not a golden pair: rejected"):
        load(golden)


def test_a_pad_token_that_a_completion_can_end_with_is_found_without_golden_pairs(
    save: Save, tokenizer: object
) -> None:
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    exclamation = tokenizer.convert_tokens_to_ids("!")
    folder = save(tokenizer=tokenizer, pad_token_id=exclamation)
    [reason] = load(folder).self_test()
    assert f"the pad token '!' (id {exclamation}) can end a completion" in reason


@pytest.mark.parametrize("kept", ["m['role'] == 'user'", "m['role'] == 'assistant'"])
def test_a_template_that_leaves_a_turn_out_is_found_without_golden_pairs(
    save: Save, tokenizer: object, kept: str
) -> None:
    tokenizer.chat_template = (
        f"{{% for m in messages %}}{{% if {kept} %}}{{{{ m['content'] }}}}{{% endif %}}{{% endfor %}}."
    )
    [reason] = load(save(tokenizer=tokenizer)).self_test()
    assert "leaves out the prompt or the completion" in reason


def test_a_pad_token_without_embedding_is_a_reason_and_no_crash(save: Save) -> None:
    folder = save()
    change(folder / "config.json", pad_token_id=5000)
    # transformers itself refuses such an embedding, or its forward pass fails: either is told, and nothing is served.
    try:
        [reason] = load(folder).self_test()
    except (ModelRefused, AssertionError) as refused:
        reason = str(refused)
    assert reason
