"""The end of a service that is told to end while it works, as a process of its own."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import httpx
import pytest

PROGRAM = """
import asyncio, sys
from fastapi import APIRouter, Request
from service.app import create_service_app
from service.body import json_response
from service.serve import run
from service.settings import ServiceSettings

router = APIRouter()

@router.post("/work")
async def work(request: Request):
    await asyncio.sleep(float(await request.body()))
    return json_response(b'"done"')

settings = ServiceSettings(port=0, **dict(pair.split("=") for pair in sys.argv[1:]))
run(create_service_app("busy-service", settings, list, [router]), settings)
"""
JSON = {"content-type": "application/json"}


@contextmanager
def service(*settings: str):
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    command = [sys.executable, "-c", PROGRAM, *settings]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            yield process, process.stdout.readline().split()[-1]
        finally:
            process.kill()
            process.stderr.close()


def work(url: str, seconds: float) -> tuple[threading.Thread, list[httpx.Response | Exception]]:
    """A request under way, and where its answer will be."""
    answers: list[httpx.Response | Exception] = []

    def ask() -> None:
        try:
            answers.append(httpx.post(f"{url}/work", content=str(seconds), headers=JSON, timeout=60, trust_env=False))
        except httpx.HTTPError as error:
            answers.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(0.5)
    return thread, answers


@pytest.mark.parametrize("told_by", [signal.SIGTERM, signal.SIGINT])
def test_what_is_in_flight_is_finished_and_what_comes_then_is_a_503(told_by):
    options = {"trust_env": False, "timeout": 30}
    with service() as (process, url), httpx.Client(base_url=url, **options) as kept, httpx.Client(**options) as fresh:
        fresh.base_url = url
        assert kept.get("/readyz").status_code == 200
        thread, answers = work(url, 3)
        process.send_signal(told_by)
        time.sleep(0.3)
        for client in (kept, fresh):
            refused = client.post("/work", content=b"0", headers=JSON)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            assert refused.json()["title"] == "draining"
            ready = client.get("/readyz")
            assert ready.status_code == 503
            assert ready.json()["reasons"] == ["draining: the service was told to end"]
            assert client.get("/livez").status_code == 200
        thread.join()
        assert [answer.text for answer in answers] == ['"done"']
        process.wait(timeout=20)
        lines = [json.loads(line) for line in process.stderr.read().splitlines()]
    assert not [line for line in lines if line["level"] == "ERROR"]


def test_a_service_stays_red_for_as_long_as_its_settings_say():
    with service("drain_s=2") as (process, url):
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert httpx.get(f"{url}/readyz", trust_env=False).status_code == 503
        process.wait(timeout=20)
        assert time.monotonic() - started >= 2


def test_what_does_not_end_is_not_waited_for_longer_than_the_settings_say():
    with service("drain_timeout_s=0.5") as (process, url):
        thread, answers = work(url, 60)
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=40)
        thread.join()
    assert all(isinstance(answer, Exception) or answer.status_code >= 500 for answer in answers)


def test_a_second_signal_does_not_wait():
    with service("drain_s=50") as (process, _):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=20)
