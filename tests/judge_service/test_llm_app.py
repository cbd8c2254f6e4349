"""LLM judges beside rule judges in the whole app, as `judge-service` starts it."""

import time
from pathlib import Path

import pytest
from fake_llm import FakeLlm

from judge_service.llm.settings import LlmSettings
from judge_service.settings import JudgeSettings


@pytest.fixture(scope="module")
def fake() -> FakeLlm:
    return FakeLlm("systemone")


@pytest.fixture(scope="module")
def whole(start_service, fake):
    settings = {"upstreams": {"fake": fake.settings}, "judges": {"no_refusal": "fake"}, "canaries_right": 0}
    service = start_service(llm_transport=fake.transport(), llm=LlmSettings.model_validate(settings), workers=1)
    ends = time.monotonic() + 60
    while any("LLM" in reason for reason in service.app.state.readiness()):  # until the probe is answered
        assert time.monotonic() < ends
        time.sleep(0.02)
    return service


def test_a_request_with_rules_and_questions_gets_both_answered_in_order(whole, fake):
    items = [{"completion": f"a good \\boxed{{{number}}}", "ground_truth": number} for number in range(5)]
    for verdicts in whole.judge(items, ["word_count", "no_refusal", "math_answer"]):
        assert [verdict["outcome"] for verdict in verdicts] == ["satisfied"] * 3
    assert fake.num_requests == 5


def test_a_judge_without_an_upstream_says_so_and_hinders_nobody(whole):
    [verdicts] = whole.judge([{"completion": "some words"}], ["safety", "word_count"])
    assert verdicts[0]["error"]["type"] == "unsupported"
    assert verdicts[0]["error"]["retryable"] is False
    assert "llm.upstreams" in verdicts[0]["error"]["detail"]
    assert verdicts[1]["outcome"] == "satisfied"
    entries = {entry["name"]: entry for entry in whole.request("GET", "/v1/judges").json()["judges"]}
    assert entries["safety"]["ready"] is False
    assert "llm.judges.safety" in entries["safety"]["problems"][0]
    assert entries["no_refusal"]["ready"] is entries["word_count"]["ready"] is True
    assert not any("LLM" in reason for reason in whole.request("GET", "/readyz").json()["reasons"])


def test_the_example_settings_have_no_refusal_answered_by_the_classifier_beside_the_reward_model():
    settings = JudgeSettings.load(Path(__file__).parents[2] / "examples" / "judge_service.yaml")
    upstream = settings.llm.upstreams[settings.llm.upstream_of("no_refusal")]
    assert (upstream.backend, upstream.model, upstream.url) == ("classify", "refusals", "http://127.0.0.1:8002")
