"""The chat backends against a real server with a real model: llama.cpp with SmolLM2-135M (`examples/llama_server.py`).

The model cannot judge: what is held here is that its numbers are read as it gives them, and that nothing else is.
"""

import asyncio
import json
import math
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry

from judge_service.judge import JudgeItem
from judge_service.llm.backend import Ask
from judge_service.llm.chat_logprobs import LEAST_MASS
from judge_service.llm.settings import LlmUpstream
from judge_service.llm.upstream import Metrics, Reply, Upstream
from wire.errors import ServiceError, ServiceUnreachable

pytest.importorskip("xllamacpp", reason="llama.cpp's server is not installed: pip install xllamacpp")
pytestmark = pytest.mark.timeout(600)

ROOT = Path(__file__).parents[2]
PATIENT_S = 300.0  # an answer takes a second; on a machine with something else to do, much longer
GOOD = JudgeItem(id="a", prompt="Where is the Louvre?", completion="It is in Paris.")
ENDLESS = JudgeItem(id="b", prompt="Count.", completion=" ".join(map(str, range(5000))))


@pytest.fixture(scope="module")
def server():
    """A process that serves, and its URL."""
    command = [sys.executable, "examples/llama_server.py", "--port", "0", "--threads", "1"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as process:
        yield process, process.stdout.readline().strip()
        process.kill()


class Recorder(httpx.AsyncHTTPTransport):
    """The network, and the last answer that came from it."""

    answer: dict | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        content = await response.aread()
        self.answer = json.loads(content)
        return httpx.Response(response.status_code, headers=response.headers, content=content)


def ask(url: str, backend: str, item: JudgeItem = GOOD, question: str = "Is the completion a sentence?", **changes):
    """Return the answer to one question as it is read, or the error that it is, and as it came."""
    settings = {"url": f"{url}/v1", "backend": backend, "model": "smollm2", "timeout_s": PATIENT_S, "retries": 0}

    async def run() -> tuple[Reply | ServiceError, dict]:
        async with Recorder() as transport:
            chosen = LlmUpstream.model_validate({**settings, **changes})
            upstream = Upstream("real", chosen, Metrics(CollectorRegistry()), transport)
            try:
                reply = await upstream.ask(Ask(item, {"q1": question}), time.monotonic() + PATIENT_S)
            except ServiceError as error:
                return error, transport.answer
            return reply, transport.answer

    return asyncio.run(run())


@pytest.mark.parametrize("question", ["Is the completion a sentence? Say yes or say no.", "Name a colour."])
def test_the_probability_is_that_of_yes_against_no_and_none_where_the_model_says_something_else(server, question):
    reply, answer = ask(server[1], "chat_logprobs", question=question)
    top = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    assert len(top) == 20
    mass = {"yes": 0.0, "no": 0.0}
    for one in top:
        word = one["token"].strip(' ."').lower()
        mass[word] = mass.get(word, 0.0) + math.exp(one["logprob"])
    both = mass["yes"] + mass["no"]
    if both < LEAST_MASS:  # so it is with a model this small when it is asked for a colour, and now and then otherwise
        assert f"yes and no have the probability {both:.3f} together" in str(reply)
        return
    assert reply.yes == {"q1": pytest.approx(mass["yes"] / both, abs=1e-6)}
    assert reply.tokens == answer["usage"]["total_tokens"]


def test_the_probability_is_the_confidence_of_an_answer_held_to_the_schema(server):
    reply, answer = ask(server[1], "chat_schema")
    said = json.loads(answer["choices"][0]["message"]["content"])
    assert set(said) == {"answer", "confidence"}
    assert reply.yes == {"q1": said["confidence"] if said["answer"] == "yes" else 1 - said["confidence"]}


def test_what_is_no_answer_of_the_model_is_none(server):
    url = server[1]
    asked = {
        "it comes from the model 'smollm2', not 'another-7b'": ("chat_logprobs", {"model": "another-7b"}),
        "400": ("chat_logprobs", {"item": ENDLESS}),  # longer than the model reads
        "no complete answer within 0.01 s": ("chat_schema", {"timeout_s": 0.01}),
        "404": ("decisions", {}),  # this server has no such endpoint
    }
    for message, (backend, changes) in asked.items():
        error, _ = ask(url, backend, **changes)
        assert isinstance(error, ServiceError)
        assert message in str(error)


def test_a_server_that_dies_is_unreachable(server):
    process, url = server
    process.kill()
    process.wait()
    assert isinstance(ask(url, "chat_logprobs")[0], ServiceUnreachable)
