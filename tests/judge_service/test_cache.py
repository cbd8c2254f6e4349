"""The verdict cache: what is asked again and what is not."""

import sqlite3
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_llm import FakeLlm
from prometheus_client import CollectorRegistry

from judge_service import question
from judge_service.cache import VerdictCache, key_of
from judge_service.judge import JudgeItem, Verdict
from judge_service.judges.factuality import Factuality
from judge_service.judges.no_refusal import NoRefusal

ITEMS = [{"prompt": f"Question {number}?", "completion": f"a good {number}"} for number in range(20)]
JUDGES: list[Any] = ["no_refusal", "safety"]


def start(start_llm, fake: FakeLlm, path: Path | None, **changes: Any):
    settings = {"upstreams": {"fake": {**fake.settings, **changes}}, "default": "fake", "cache": path}
    return start_llm(llm_transport=fake.transport(), llm=settings)


def metric(service, name: str) -> float:
    lines = service.request("GET", "/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


def test_a_second_run_makes_no_request_and_gives_the_same_verdicts(start_llm, tmp_path):
    fake = FakeLlm("systemone")
    service = start(start_llm, fake, tmp_path / "new" / "verdicts.sqlite")
    first = service.judge(ITEMS, JUDGES)
    assert fake.num_requests == 20
    assert service.judge(ITEMS, JUDGES) == first
    assert fake.num_requests == 20
    assert metric(service, "llm_cache_hits_total") == 40
    assert metric(service, "llm_cache_misses_total") == 40
    # A restart finds what was kept, whatever the ids and whatever columns the judge does not look at.
    again = start(start_llm, fake, tmp_path / "new" / "verdicts.sqlite")
    rows = [{**item, "id": f"x{number}", "metadata": {"row": number}} for number, item in enumerate(ITEMS)]
    assert again.judge(rows, JUDGES) == first
    assert fake.num_requests == 20


def test_another_threshold_model_or_revision_misses_the_cache(start_llm, tmp_path):
    fake = FakeLlm("systemone")
    path = tmp_path / "verdicts.sqlite"
    start(start_llm, fake, path).judge(ITEMS[:1], ["no_refusal"])
    changed = {"name": "no_refusal", "parameters": {"satisfied_above": 0.6}}
    start(start_llm, fake, path).judge(ITEMS[:1], [changed])
    assert fake.num_requests == 2
    lower = {"name": "no_refusal", "parameters": {"violated_below": 0.4}}
    start(start_llm, fake, path).judge(ITEMS[:1], [lower])
    assert fake.num_requests == 3
    start(start_llm, fake, path, revision="r2").judge(ITEMS[:1], ["no_refusal"])
    assert fake.num_requests == 4
    start(start_llm, fake, path).judge(ITEMS[:1], ["no_refusal", changed, lower])
    assert fake.num_requests == 4


def test_one_word_of_a_prompt_file_misses_the_cache(start_llm, tmp_path, monkeypatch):
    # A judge of somebody's own, with its prompt file beside it.
    (tmp_path / "prompts").mkdir()
    prompt = tmp_path / "prompts" / "polite_llm.txt"
    prompt.write_text("[satisfied]\nIs it very polite?\n\n[violated]\nIs it rude?\n")
    (tmp_path / "polite_llm.py").write_text(
        "from judge_service.question import LlmJudge\n"
        "class PoliteLlm(LlmJudge):\n    satisfied_when = 'the response is polite'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    fake = FakeLlm("systemone", opinion=lambda completion, asked: 0.1 if "rude" in asked else 0.9)
    settings = {"upstreams": {"fake": fake.settings}, "default": "fake", "cache": tmp_path / "verdicts.sqlite"}

    def ask() -> str:
        question.read_prompt.cache_clear()  # as in a process that starts anew
        service = start_llm(llm_transport=fake.transport(), llm=settings, extra_judges=["polite_llm:PoliteLlm"])
        [[verdict]] = service.judge(ITEMS[:1], ["polite_llm"])
        assert verdict["outcome"] == "satisfied"
        return verdict["version"]

    first = ask()
    assert (ask(), fake.num_requests) == (first, 1)
    prompt.write_text(prompt.read_text().replace("very", "quite"))
    assert ask() != first
    assert fake.num_requests == 2
    sys.modules.pop("polite_llm")


def test_unknown_is_never_kept(start_llm, tmp_path):
    fake = FakeLlm("systemone", opinion=lambda completion, asked: 0.99)
    service = start(start_llm, fake, tmp_path / "verdicts.sqlite")
    for _ in range(2):
        [[verdict]] = service.judge(ITEMS[:1], ["no_refusal"])
        assert verdict["error"]["type"] == "inconsistent"
    assert fake.num_requests == 2
    fake.fault_for_ever = lambda request: httpx.Response(400)
    service.judge(ITEMS[1:2], ["no_refusal"])
    rows = sqlite3.connect(tmp_path / "verdicts.sqlite").execute("SELECT count(*) FROM verdicts").fetchall()
    assert rows == [(0,)]


@pytest.fixture
def cache(tmp_path):
    def make(path: Path | None = tmp_path / "verdicts.sqlite", most: int = 100) -> VerdictCache:
        made = VerdictCache(path, most, CollectorRegistry())
        made.open()
        opened.append(made)
        return made

    opened: list[VerdictCache] = []
    yield make
    for one in opened:
        one.close()


def item(number: int, **fields: Any) -> JudgeItem:
    return JudgeItem(**{"id": "a", "prompt": "p", "completion": f"c{number}", **fields})


def verdict() -> Verdict:
    return NoRefusal().satisfied("said so", 0.75)


def test_the_oldest_verdicts_go_when_there_are_too_many(cache):
    store = cache(most=10)
    judge = NoRefusal()
    keys = [key_of(judge, item(number)) for number in range(25)]
    for key in keys:
        store.keep([(key, verdict())])
    assert set(store.find([(key, judge) for key in keys])) == set(keys[-10:])


@pytest.mark.parametrize("path", ["file", None])
def test_what_is_found_is_what_was_kept(cache, tmp_path, path):
    store = cache(tmp_path / "verdicts.sqlite" if path else None)
    judge, key = NoRefusal(), key_of(NoRefusal(), item(1))
    store.keep([(key, verdict()), (b"other", judge.unknown("upstream", "down"))])
    assert store.find([(key, judge), (b"other", judge)]) == {key: verdict()}


def test_a_cache_of_no_verdicts_keeps_none(cache):
    store = cache(most=0)
    store.keep([(b"key", verdict())])
    assert store.find([(b"key", NoRefusal())]) == {}


def test_the_key_is_what_the_judge_sees():
    judge = NoRefusal()
    assert key_of(judge, item(1)) == key_of(judge, item(1, id="b", metadata={"x": 1}, ground_truth="g"))
    assert key_of(judge, item(1)) != key_of(judge, item(2))
    assert key_of(judge, item(1)) != key_of(judge, item(1, prompt="q"))
    assert key_of(judge, item(1)) != key_of(NoRefusal(temperature=2.0), item(1))
    assert key_of(Factuality(), item(1, ground_truth="a")) != key_of(Factuality(), item(1, ground_truth="b"))
    key_of(Factuality(), item(1, ground_truth=2**70))


def test_two_services_share_a_file(cache):
    first, judge = cache(), NoRefusal()
    keys = [key_of(judge, item(number)) for number in range(40)]

    def other() -> None:
        second = VerdictCache(first._path, 100, CollectorRegistry())
        second.open()
        for key in keys[20:]:
            second.keep([(key, verdict())])
        second.close()

    thread = threading.Thread(target=other)
    thread.start()
    for key in keys[:20]:
        first.keep([(key, verdict())])
    thread.join()
    assert len(first.find([(key, judge) for key in keys])) == 40


def test_a_file_that_is_no_database_costs_requests_and_no_verdict(start_llm, tmp_path, caplog):
    path = tmp_path / "verdicts.sqlite"
    path.write_bytes(b"this is no database" * 1000)
    fake = FakeLlm("systemone")
    service = start(start_llm, fake, path)
    for _ in range(2):
        [[one]] = service.judge(ITEMS[:1], ["no_refusal"])
        assert one["outcome"] == "satisfied"
    assert metric(service, "llm_cache_errors_total") == 1
    assert "the verdict cache at" in caplog.text
    assert fake.num_requests == 2
