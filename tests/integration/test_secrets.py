"""A secret word in every field of requests to real services: no trace of it in logs, metrics and refusals."""

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[2]
ODD_JUDGES = Path(__file__).parents[1] / "judge_service" / "odd_judges"
SECRET = "xyzzyplugh"
TOKEN = "opensesame-and-more"
ITEM = {
    "id": SECRET,
    "prompt": f"What of {SECRET}?",
    "completion": f"It is \\boxed{{{SECRET}}}. \\d `{SECRET}`",
    "ground_truth": SECRET,
    "metadata": {SECRET: [SECRET, {SECRET: SECRET}], "tests": [f"assert '\\d{SECRET}' == {SECRET}("]},
}
CODE = f"```python\ndef f():\n    raise ValueError('\\d {SECRET}')\nprint('{SECRET}')\n```"
PARAMETERS = {
    "contains": {"keywords": [SECRET]},
    "lacks": {"keywords": [SECRET]},
    "keywords": {"keywords": [SECRET]},
    "regex": {"pattern": SECRET},
    "ends_with": {"text": SECRET},
    "json_schema": {"schema": {"const": SECRET}},
}
ODD = ("Crashes", "Dies", "EatsMemory", "ReturnsNothing", "CrashesInLoop", "CrashesInProcess")


@contextmanager
def service(module: str, log: Path, *arguments: str, **environment: str):
    """A service at log level DEBUG whose output goes to a file; a client with its token."""
    command = [sys.executable, "-m", module, "--port", "0", "--log-level", "DEBUG", *arguments]
    settings = {**os.environ, f"{module.upper()}_TOKENS": TOKEN, **environment}
    with log.open("w") as errors:
        process = subprocess.Popen(command, cwd=ROOT, env=settings, stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        url = process.stdout.readline().split()[-1]
        headers = {"authorization": f"Bearer {TOKEN}"}
        with httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=120) as client:
            yield client
    finally:
        process.terminate()
        said, _ = process.communicate(timeout=60)
        assert said == ""


def refused(client: httpx.Client, path: str, valid: dict) -> list[httpx.Response]:
    """Bodies that have to be refused, each with the secret where the fault is."""
    first = next(iter(valid))
    bodies = [
        SECRET.encode(),
        b'{"' + SECRET.encode() + b'": NaN}',
        b'{"a": "\\ud800' + SECRET.encode() + b'"}',
        json.dumps([SECRET]).encode(),
        json.dumps({**valid, first: {SECRET: SECRET}}).encode(),
        json.dumps({SECRET: SECRET}).encode(),
    ]
    json_type = {"content-type": "application/json"}
    answers = [client.post(path, content=body, headers=json_type) for body in bodies]
    answers.append(client.post(path, content=SECRET, headers={"content-type": f"text/{SECRET}"}))
    answers.append(client.post(path, json=valid, headers={"content-encoding": SECRET}))
    answers.append(client.post(path, json=valid, headers={"x-request-timeout-ms": SECRET}))
    answers.append(client.post(path, json=valid, headers={"authorization": f"Bearer {SECRET}"}))
    answers.append(client.post(path, json=valid, headers={"x-request-id": f"<{SECRET}>"}))
    return answers


def elsewhere(client: httpx.Client) -> list[httpx.Response]:
    """Requests whose address or method is the secret."""
    paths = (f"/{SECRET}", f"/v1/{SECRET}?{SECRET}={SECRET}", f"/livez?{SECRET}", f"/docs/{SECRET}")
    return [client.get(path) for path in paths] + [client.request(SECRET.upper(), "/livez")]


def check(answers: list[httpx.Response], client: httpx.Client) -> None:
    """Look for the secret in what was refused, and in the metrics."""
    assert any(answer.status_code >= 400 for answer in answers)
    for answer in answers:
        if answer.status_code != 200:
            assert SECRET not in answer.text.lower() + str(answer.headers).lower(), (answer.request.url, answer.text)
    assert SECRET not in client.get("/metrics").text.lower()


def check_log(log: Path) -> None:
    """Every line is JSON, some tell of what happened, none of what was sent."""
    text = log.read_text()
    assert SECRET not in text.lower()
    assert TOKEN not in text
    lines = [json.loads(line) for line in text.splitlines()]
    assert sum("route" in line for line in lines) > 20
    assert all(line.get("request_id") for line in lines if "route" in line or " crashed: " in line.get("message", ""))


def test_the_judge_service_tells_nobody(tmp_path):
    log = tmp_path / "judge.log"
    odd = [argument for name in ODD for argument in ("--judge", f"odd:{name}")]
    path = os.pathsep.join([str(ODD_JUDGES), str(ROOT)])
    with service("judge_service", log, *odd, "--workers", "1", PYTHONPATH=path) as client:
        names = [judge["name"] for judge in client.get("/v1/judges").json()["judges"]]
        specs = [{"name": name, "parameters": PARAMETERS.get(name, {})} for name in names]
        answers = []
        for spec in specs:
            for completion in (ITEM["completion"], CODE, "eat", "die"):
                body = {"items": [{**ITEM, "completion": completion + SECRET}], "judges": [spec]}
                answers.append(client.post("/v1/judge", json=body, headers={"x-request-timeout-ms": "8000"}))
        answers += refused(client, "/v1/judge", {"items": [ITEM], "judges": ["word_count"]})
        for parameters in ({"max": SECRET}, {"unit": SECRET}):
            spec = {"name": "word_count", "parameters": parameters}
            answers.append(client.post("/v1/judge", json={"items": [ITEM], "judges": [spec]}))
        rows = {
            "/get_reward": {"query": [SECRET], "prompts": [""], "labels": [SECRET]},
            "/rm": {"prompt": SECRET, "response": SECRET, "label": SECRET},
            "/verify": {
                "responses_create_params": {"input": SECRET},
                "response": {"output": [{"type": "message", "content": SECRET}]},
                "expected_answer": SECRET,
            },
            "/run_code": {"code": f"raise ValueError('{SECRET}')", "language": "python", "stdin": SECRET},
        }
        for adapter, valid in rows.items():
            for judges in ("", "?judges=math_answer", f"?judges={SECRET}(", "?judges=python_tests", "?judges=crashes"):
                answers.append(client.post(adapter + judges, json=valid))
            answers += refused(client, adapter, valid)
        answers += elsewhere(client)
        check(answers, client)
        judged = [answer.json() for answer in answers if answer.is_success and answer.url.path == "/v1/judge"]
        verdicts = [verdict for body in judged for result in body["results"] for verdict in result["verdicts"]]
        errors = [verdict["error"] for verdict in verdicts if verdict["error"]]
        assert len({error["type"] for error in errors}) > 2
        assert SECRET not in json.dumps(errors).lower()
    check_log(log)
    assert " crashed: " in log.read_text()


def test_the_reward_service_tells_nobody(tmp_path, tiny_folders):
    log = tmp_path / "reward.log"
    with service("reward_service", log, "--model", str(tiny_folders[1])) as client:
        while client.get("/readyz").status_code != 200:
            pass
        pair = {"id": SECRET, "prompt": SECRET, "completion": SECRET}
        turns = [{"role": SECRET, "content": SECRET}]
        rows = {
            "/v1/score": {"items": [pair]},
            "/get_reward": {"query": [SECRET], "prompts": [SECRET], "labels": [SECRET]},
            "/rm": {"prompt": SECRET, "response": SECRET, "label": SECRET},
            "/classify": {"input": SECRET},
            "/score": {"text_1": SECRET, "text_2": [SECRET]},
            "/rerank": {"query": SECRET, "documents": [SECRET]},
            "/predict": {"inputs": SECRET},
        }
        answers = [client.post("/v1/score", json={"items": [{**pair, "prompt": turns}]})]
        answers.append(client.post("/v1/score", json={"items": [pair], "model": SECRET}))
        answers.append(client.post("/classify", json={"messages": turns}))
        answers.append(client.post("/classify", json={"input": SECRET * 20_000}))
        answers.append(client.post("/predict", json={"inputs": SECRET * 20_000}))
        for path, valid in rows.items():
            answers.append(client.post(path, json=valid))
            answers += refused(client, path, valid)
        answers += elsewhere(client)
        check(answers, client)
    check_log(log)


@pytest.mark.parametrize("module", ["judge_service", "reward_service"])
def test_a_public_bind_without_a_token_does_not_start(module, tiny_folders):
    model = ["--model", str(tiny_folders[1])] if module == "reward_service" else []
    command = [sys.executable, "-m", module, "--host", "0.0.0.0", "--port", "0", *model]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    assert "listening" not in done.stdout
    assert "no token is set" in " ".join(done.stderr.replace("│", " ").split())
