"""Two replicas as real processes, one of them killed in the middle of a batch and started again."""

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from trainer.environment import THREADS
from wire import RewardClient, ScoreItem

ROOT = Path(__file__).parents[2]
PATIENCE_S = 200


@contextmanager
def replica(model, port=0):
    """A reward service in a process of its own: the process, and its URL once it listens."""
    process = subprocess.Popen(
        [sys.executable, "-m", "reward_service", "--model", str(model), "--port", str(port), "--dtype", "float32"],
        cwd=ROOT,
        env={**THREADS, **os.environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield process
    finally:
        process.stdout.close()
        process.kill()
        process.wait(timeout=30)


def url_of(process):
    line = process.stdout.readline()
    assert " listening on " in line, f"the service said {line!r} and ended with {process.wait(timeout=10)}"
    return line.split()[-1]


def until(is_so, what):
    end = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < end, f"after {PATIENCE_S} s still not so: {what}"
        time.sleep(0.02)


def is_ready(url):
    with RewardClient(url) as client:
        return client.ready().status == "ok"


def num_scored(url):
    lines = httpx.get(f"{url}/metrics", timeout=30).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith('reward_scores_total{outcome="scored"}'))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_one_of_two_replicas_is_killed_in_the_middle_and_comes_back(tiny_folders):
    model = tiny_folders[1]
    items = [ScoreItem(id=f"i{n}", prompt=f"Count to {n}.", completion="one two " * (n % 20)) for n in range(5000)]
    with ExitStack() as stack:
        first, second = stack.enter_context(replica(model)), stack.enter_context(replica(model))
        urls = [url_of(first), url_of(second)]
        for url in urls:
            until(lambda url=url: is_ready(url), f"{url} is ready")

        client = stack.enter_context(RewardClient(urls, items_per_request=32))
        started = time.monotonic()
        future = client.submit(items, deadline_s=PATIENCE_S)
        until(lambda: num_scored(urls[0]) > 0, "the first replica has scored something")
        first.send_signal(signal.SIGKILL)
        first.wait(timeout=30)
        again = stack.enter_context(replica(model, urls[0].rpartition(":")[2]))
        response = future.result(timeout=2 * PATIENCE_S)
        assert time.monotonic() - started < PATIENCE_S

        assert [score.id for score in response.results] == [item.id for item in items]
        assert [score.error for score in response.results if score.error] == []
        assert num_scored(urls[1]) < 5000  # the first one had its part
        with RewardClient(urls[1]) as alone:
            expected = [score.score for score in alone.score(items, deadline_s=PATIENCE_S).results]
        assert [score.score for score in response.results] == pytest.approx(expected, abs=1e-4)

        assert url_of(again) == urls[0]
        until(lambda: is_ready(urls[0]), "the returned replica is ready")
        until(lambda: bool(client.score(items[:320]).results) and num_scored(urls[0]) > 0, "it is used again")
