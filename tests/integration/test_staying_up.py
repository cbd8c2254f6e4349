"""Judge services, real processes, that lose workers or are told to end in the middle of a batch: no verdict is lost."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest

from wire import JudgeClient, JudgeItem
from wire.judge import JudgeResult

ROOT = Path(__file__).parents[2]
PATIENCE_S = 300.0
COUNT = 800

pytestmark = pytest.mark.timeout(1200)


@contextmanager
def service() -> Iterator[tuple[psutil.Popen, str]]:
    """A judge service with two workers: its process and its URL, once it is ready."""
    command = [sys.executable, "-m", "judge_service", "--port", "0", "--workers", "2", "--no-require-sandbox"]
    process = psutil.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        url = process.stdout.readline().split()[-1]
        with JudgeClient(url) as client:
            until(lambda: client.ready().status == "ok", "readiness")
        yield process, url
    finally:
        process.stdout.close()
        with suppress(psutil.NoSuchProcess):
            process.kill()
        process.wait()


@pytest.fixture(scope="module")
def steady() -> Iterator[tuple[psutil.Popen, str]]:
    """A service that all tests use."""
    with service() as running:
        yield running


def until(is_so, what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < end, f"no {what} after {PATIENCE_S:.0f} s"
        time.sleep(0.02)


def items(count: int) -> list[JudgeItem]:
    """Every third answer is wrong."""
    return [
        JudgeItem(id=str(n), prompt="", completion=f"\\boxed{{{n}}}", ground_truth=str(n + (n % 3 == 0)))
        for n in range(count)
    ]


def given(url: str) -> float:
    lines = httpx.get(f"{url}/metrics", trust_env=False).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("verdicts_total{"))


def check(answers: Future[list[JudgeResult]]) -> None:
    outcomes = [result.verdicts[0].outcome for result in answers.result(PATIENCE_S)]
    wanted = ["satisfied" if n % 3 else "violated" for n in range(len(outcomes))]
    assert outcomes == wanted


def mother_of(process: psutil.Popen) -> psutil.Process:
    """The process that forks the workers: the one that has children which judge."""
    return max(process.children(), key=lambda child: len(child.children()))


@pytest.mark.parametrize("whom", ["workers", "mother"])
def test_worker_processes_killed_in_the_middle_of_a_batch_cost_no_verdict(steady, whom: str) -> None:
    process, url = steady
    with JudgeClient(url, deadline_s=PATIENCE_S) as client:
        before = given(url)
        answers = client.submit(items(COUNT), ["math_answer"])
        until(lambda: given(url) > before, "first verdict")
        mother = mother_of(process)
        for one in mother.children() if whom == "workers" else [mother]:
            one.kill()
        check(answers)
        check(client.submit(items(100), ["math_answer"]))
        assert client.ready().status == "ok"


def test_a_replica_that_is_told_to_end_in_the_middle_of_a_batch_costs_no_verdict(steady) -> None:
    with service() as (first, first_url):
        with JudgeClient([first_url, steady[1]], deadline_s=PATIENCE_S) as client:
            before = given(first_url)
            answers = client.submit(items(COUNT), ["math_answer"])
            until(lambda: given(first_url) > before, "verdict of the first")
            children = first.children(recursive=True)
            first.send_signal(signal.SIGTERM)
            check(answers)
        assert first.wait(timeout=60) in (0, -signal.SIGTERM)
        until(lambda: not any(child.is_running() for child in children), "end of its processes")
