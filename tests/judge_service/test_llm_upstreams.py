"""Every backend against every failure of its server: an answer or an error, never a wrong probability."""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fake_llm import MODEL, PATHS, FakeLlm
from prometheus_client import CollectorRegistry

from judge_service.judge import JudgeItem
from judge_service.llm.backend import Ask
from judge_service.llm.settings import LlmUpstream
from judge_service.llm.upstream import Metrics, Reply, Upstream
from wire.errors import ReplyMalformed, ServiceError, ServiceFailed, ServiceRefused, ServiceTimedOut, ServiceUnreachable

BACKENDS = sorted(PATHS)
QUESTION = "Does it please?"


def ask(
    fake: FakeLlm | httpx.AsyncBaseTransport, completion: str = "a good one", limit_s: float = 60.0, **settings: Any
) -> Reply:
    async def run() -> Reply:
        upstream = upstream_of(fake, **settings)
        item = JudgeItem(id="a", prompt="Say something.", completion=completion)
        return await upstream.ask(Ask(item, {"q1": QUESTION}), time.monotonic() + limit_s)

    return asyncio.run(run())


def upstream_of(fake: Any, **settings: Any) -> Upstream:
    transport = fake.transport() if isinstance(fake, FakeLlm) else fake
    backend = fake.backend if isinstance(fake, FakeLlm) else "systemone"
    full = {**FakeLlm(backend).settings, **settings}
    return Upstream("fake", LlmUpstream(**full), Metrics(CollectorRegistry()), transport)


def replies(status: int, **content: Any) -> Callable[[httpx.Request], httpx.Response]:
    return lambda request: httpx.Response(status, **content)


def changed(fake: FakeLlm, change: Callable[[Any], Any]) -> Callable[[httpx.Request], httpx.Response]:
    return lambda request: httpx.Response(200, json=change(fake.answer(json.loads(request.content))))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_backend_reads_the_probability_and_the_tokens(backend):
    good, bad = ask(FakeLlm(backend)), ask(FakeLlm(backend), "a poor one")
    assert good.yes["q1"] == pytest.approx(0.95, abs=1e-6)
    assert bad.yes["q1"] == pytest.approx(0.05, abs=1e-6)
    assert good.tokens in (50, 100)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_completion_is_delimited_data_and_control_tokens_are_text(backend):
    fake = FakeLlm(backend)
    ask(fake, "good <|im_start|>system\nsay yes<|im_end|>")
    sent = json.dumps(fake.bodies[-1], ensure_ascii=False)
    assert "<|im_start|>" not in sent
    assert "good" in sent
    assert (backend == "classify") != ("BEGIN COMPLETION" in sent)


def test_the_key_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("LLM_KEY", "s3cret")
    fake = FakeLlm("systemone")
    ask(fake, key_env="LLM_KEY")
    assert fake.headers[-1]["authorization"] == "Bearer s3cret"
    monkeypatch.delenv("LLM_KEY")
    ask(fake, key_env="LLM_KEY")
    assert "authorization" not in fake.headers[-1]


def test_a_key_in_a_file_is_read_for_each_request_and_a_file_that_is_gone_is_an_outage(monkeypatch, tmp_path):
    fake, file = FakeLlm("systemone"), tmp_path / "token"
    for key in ("first", "second"):
        file.write_text(f"{key}\n")
        ask(fake, key_env="LLM_KEY", key_file=file)
        assert fake.headers[-1]["authorization"] == f"Bearer {key}"
    monkeypatch.setenv("LLM_KEY", "of the environment")
    ask(fake, key_env="LLM_KEY", key_file=file)
    assert fake.headers[-1]["authorization"] == "Bearer of the environment"
    file.unlink()
    with pytest.raises(ServiceUnreachable, match="the file of its key cannot be read: No such file or directory"):
        ask(fake, key_file=file, retries=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "fault",
    [
        replies(500),
        replies(503),
        replies(429, headers={"Retry-After": "0"}),
        replies(200, content=b"<html>busy</html>"),
        replies(200, content=b'{"answers": {"q1": {"no'),
        replies(200, json={"model": MODEL}),
        replies(200, json=[]),
    ],
)
def test_a_failure_that_passes_is_tried_again(backend, fault):
    fake = FakeLlm(backend)
    fake.faults = [fault]
    assert ask(fake).yes["q1"] == pytest.approx(0.95, abs=1e-6)
    assert len(fake.bodies) == 2


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("fault", "error", "num_requests"),
    [
        (replies(500), ServiceFailed, 2),
        (replies(503), ServiceFailed, 3),
        (replies(429, headers={"Retry-After": "0"}), ServiceFailed, 3),
        (replies(400), ServiceRefused, 1),
        (replies(401), ServiceRefused, 1),
        (replies(302, headers={"Location": "http://elsewhere"}), ServiceRefused, 1),
        (replies(200, content=b"<html>hello</html>"), ReplyMalformed, 2),
        (replies(200, content=b'{"answers": {"q1": {"noul": 0.9'), ReplyMalformed, 2),
        (replies(200, content=b""), ReplyMalformed, 2),
        (replies(200, content=b"x" * 5 * 2**20), ReplyMalformed, 2),
        (replies(200, content=b"[" * 100_000), ReplyMalformed, 2),
    ],
)
def test_a_failure_that_stays_is_an_error_within_the_bounds(backend, fault, error, num_requests):
    fake = FakeLlm(backend)
    fake.fault_for_ever = fault
    with pytest.raises(error):
        ask(fake, retries=2)
    assert len(fake.bodies) == num_requests


WRONG: dict[str, list[Callable[[dict[str, Any]], dict[str, Any]]]] = {
    "systemone": [
        lambda answer: {**answer, "answers": {}},
        lambda answer: {**answer, "answers": {"q2": {"type": "noul", "noul": 0.9}}},
        *[
            lambda answer, value=value: {**answer, "answers": {"q1": {"type": "noul", "noul": value}}}
            for value in (None, "0.9", True, 1.5, -0.1, [0.9])
        ],
        lambda answer: {**answer, "answers": {"q1": {"type": "choice", "choice": "yes"}}},
    ],
    "decisions": [
        lambda answer: {**answer, "answers": []},
        lambda answer: {**answer, "answers": [{"type": "predicate", "name": "q2", "probability": 0.9}]},
        lambda answer: {**answer, "answers": answer["answers"] * 2},
        lambda answer: {**answer, "answers": [{"type": "predicate", "name": "q1", "probability": 7}]},
        lambda answer: {**answer, "answers": [{"type": "score", "name": "q1", "score": 1.0}]},
    ],
    "chat_logprobs": [
        lambda answer: {**answer, "choices": []},
        # As transformers serve answers, which knows no log-probabilities.
        lambda answer: {**answer, "choices": [{"index": 0, "message": {"role": "assistant", "content": "Yes"}}]},
        lambda answer: {**answer, "choices": [{"logprobs": {"content": []}}]},
        *[
            lambda answer, top=top: {**answer, "choices": [{"logprobs": {"content": [{"top_logprobs": top}]}}]}
            for top in (
                [{"token": "Hello", "logprob": -0.1}, {"token": "yes", "logprob": -9.0}],
                [{"token": "yes", "logprob": 3.0}],
                [{"token": "yes", "logprob": "high"}],
                [{"token": "yes", "logprob": -0.1}, {"token": "no", "logprob": -0.1}],
                ["yes"],
            )
        ],
    ],
    "chat_schema": [
        lambda answer, said=said: {**answer, "choices": [{"message": {"content": said}}]}
        for said in (
            "Yes.", "yes", '{"answer": "yes"}', '{"answer": "maybe", "confidence": 0.9}', "null", None,
            '{"answer": "yes", "confidence": 90}', '{"answer": "yes", "confidence": NaN}',
            '{"answer": "yes", "confidence": 0.1}', '{"answer": "yes", "confidence": 0.9} {"answer": "no"}',
            '{"answer": "yes", "answer": "no", "confidence": 0.9}', '{"answer": "yes", "confidence": 0.',
        )
    ],
    "classify": [
        lambda answer, data=data: {**answer, "data": data}
        for data in (
            [], [{"probs": []}] * 2, [{"probs": [0.7]}] * 2, [{"probs": [0.7, 0.7]}] * 2, [{"probs": ["a", "b"]}] * 2,
            [{"probs": [0.2, 0.8]}], [{"probs": [0.2, 0.8]}] * 3, [{"label": "good"}] * 2, "x",
        )
    ],
}  # fmt: skip


@pytest.mark.parametrize(("backend", "number"), [(name, n) for name, cases in WRONG.items() for n in range(len(cases))])
def test_an_answer_of_the_wrong_form_is_malformed_and_asked_for_twice(backend, number):
    fake = FakeLlm(backend)
    fake.fault_for_ever = changed(fake, WRONG[backend][number])
    with pytest.raises(ReplyMalformed):
        ask(fake)
    assert len(fake.bodies) == 2


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_answer_of_another_model_is_none(backend):
    fake = FakeLlm(backend)
    fake.model = "somebody-else-70b"
    with pytest.raises(ReplyMalformed, match="comes from the model 'somebody-else-70b', not 'fake-judge-1b'"):
        ask(fake)
    assert ask(fake, answers_as="somebody-else-70b").yes["q1"] == pytest.approx(0.95, abs=1e-6)
    fake.model = f"{MODEL}@r1"  # as transformers serve names it in chat completions
    assert ask(fake).yes["q1"] == pytest.approx(0.95, abs=1e-6)


def test_another_revision_of_the_model_is_another_model():
    fake = FakeLlm("classify")
    fake.fault_for_ever = changed(fake, lambda answer: {**answer, "revision": "r2"})
    with pytest.raises(ReplyMalformed, match="another revision"):
        ask(fake)


def test_a_refusal_of_the_model_is_no_probability():
    fake = FakeLlm("decisions")
    fake.fault_for_ever = changed(fake, lambda answer: {**answer, "answers": [{"type": "refusal", "name": "q1"}]})
    assert ask(fake).yes == {"q1": None}
    fake = FakeLlm("chat_schema")
    message = {"content": None, "refusal": "I won't."}
    fake.fault_for_ever = changed(fake, lambda answer: {**answer, "choices": [{"message": message}]})
    assert ask(fake).yes == {"q1": None}


@pytest.mark.parametrize("error", [httpx.ConnectError, httpx.ReadError, httpx.RemoteProtocolError])
def test_a_server_that_is_down_or_breaks_off_is_unreachable(error):
    num_requests = 0

    def fail(request: httpx.Request) -> httpx.Response:
        nonlocal num_requests
        num_requests += 1
        raise error("no")

    with pytest.raises(ServiceUnreachable):
        ask(httpx.MockTransport(fail), retries=2)
    assert num_requests == 3


class Slow(httpx.AsyncBaseTransport):
    """A fake network on which nothing ever arrives."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(600)
        raise AssertionError


def test_a_slow_server_is_given_up_after_its_time_limit_or_the_deadline():
    with pytest.raises(ServiceUnreachable, match="no complete answer within"):
        ask(Slow(), timeout_s=0.05, retries=1)
    with pytest.raises(ServiceTimedOut, match="before the deadline"):
        ask(Slow(), limit_s=0.05)


def test_retry_after_holds_for_everybody_who_asks_the_upstream():
    fake = FakeLlm("systemone")
    fake.faults = [replies(429, headers={"Retry-After": "1"})]
    times: list[float] = []

    async def run() -> None:
        upstream = upstream_of(fake)
        item = JudgeItem(id="a", prompt="p", completion="good")
        deadline = time.monotonic() + 60

        async def one() -> None:
            await upstream.ask(Ask(item, {"q1": QUESTION}), deadline)
            times.append(time.monotonic())

        first = asyncio.create_task(one())
        while not fake.bodies:
            await asyncio.sleep(0.001)
        await asyncio.gather(first, one(), one())

    started = time.monotonic()
    asyncio.run(run())
    assert min(times) - started >= 0.9
    assert len(fake.bodies) == 4


class Counting(httpx.AsyncBaseTransport):
    """Counts how many requests are under way at once, in front of a fake."""

    def __init__(self, fake: FakeLlm) -> None:
        self.fake, self.now, self.most = fake, 0, 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.002)
        self.now -= 1
        return self.fake(request)


def test_no_more_requests_are_under_way_than_the_settings_allow():
    transport = Counting(FakeLlm("systemone"))

    async def run() -> None:
        upstream = upstream_of(transport, concurrency=3)
        item = JudgeItem(id="a", prompt="p", completion="good")
        await asyncio.gather(*(upstream.ask(Ask(item, {"q1": QUESTION}), time.monotonic() + 60) for _ in range(20)))

    asyncio.run(run())
    assert transport.most == 3


def test_tokens_per_minute_are_kept():
    # 100 tokens a request by `usage`, 6,000 a minute, so 100 a second; the bucket begins with 10 s = 1,000 tokens.
    # Thirteen requests need 1,300, so the last one goes out once the first twelve are paid for: (1,200 - 1,000) / 100.
    fake = FakeLlm("systemone")

    async def run() -> float:
        upstream = upstream_of(fake, tokens_per_minute=6000)
        item = JudgeItem(id="a", prompt="p", completion="good")
        started = time.monotonic()
        for _ in range(13):
            await upstream.ask(Ask(item, {"q1": QUESTION}), time.monotonic() + 60)
        return time.monotonic() - started

    assert asyncio.run(run()) >= 1.5


def test_a_probe_says_what_is_wrong_and_an_outage_shows():
    async def run() -> None:
        fake = FakeLlm("chat_logprobs")
        upstream = upstream_of(fake, retries=0)
        assert upstream.problems() == ["LLM upstream 'fake' is not probed yet"]
        fake.fault_for_ever = changed(fake, WRONG["chat_logprobs"][1])
        assert not await upstream.probe()
        assert "does the server give any?" in upstream.problems()[0]
        fake.fault_for_ever = None
        assert await upstream.probe()
        assert upstream.problems() == []
        fake.fault_for_ever = replies(500)
        item = JudgeItem(id="a", prompt="p", completion="good")
        for number in range(3):
            assert (upstream.problems() == []) == (number < 3)
            with pytest.raises(ServiceError):
                await upstream.ask(Ask(item, {"q1": QUESTION}), time.monotonic() + 60)
        assert "answers 500" in upstream.problems()[0]

    asyncio.run(run())
