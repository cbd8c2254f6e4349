"""Ratios of the judge service, each side measured in the same run: `python benchmarks/judges.py [--verdicts N]`.

1. Text rules: 64 items a request against one, both over one kept connection. Wanted: at least 10.
2. `math_answer` over HTTP against math-verify in a bare process pool of the same size. Wanted: at least 0.8.
3. `math_answer` over HTTP against a process forked for each answer. Wanted: at least 2.
4. Memory and descriptors of the service over many text-rule verdicts (a million with `--verdicts 1000000`). Wanted:
   less than 5 % growth, no descriptor more.
5. `python_tests` with isolation against the rate at which this machine starts a bare interpreter: at least 0.5 cold, 2
   warm. `benchmarks/sandbox.py` measures it, and is run from here.
"""

import argparse
import http.client
import json
import logging
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

WORKERS = os.cpu_count() or 1
FORKED_ROWS = 40
MATH_ROWS = [
    (f"We add the parts: ${a} + {b} = {a + b}$, so half of it is $\\frac{{{a + b}}}{{2}}$. The answer is "
     f"$\\boxed{{\\frac{{{a + b + (a % 2)}}}{{2}}}}$.", f"\\frac{{{a + b}}}{{2}}")
    for a in range(3, 23) for b in range(4, 20)
]  # fmt: skip


def verify_bare(row: tuple[str, str]) -> bool:
    """Judge one row with math-verify alone."""
    from math_verify import parse, verify

    completion, gold = row
    expected = parse(f"${gold}$", parsing_timeout=None)
    return verify(expected, parse(completion, parsing_timeout=None), timeout_seconds=None)


def quiet() -> None:
    """Load math-verify, and keep its warnings about the switched-off time-out away."""
    import math_verify  # noqa: F401

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)


class Server:
    """A judge service in a process of its own, and one kept connection to it."""

    def __init__(self, *arguments: str, environment: dict[str, str] | None = None) -> None:
        command = [sys.executable, "-m", "judge_service", "--port", "0", "--log-level", "WARNING", *arguments]
        settings = {**os.environ, **(environment or {})}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=settings)
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().split()[-1]
        self.connection = http.client.HTTPConnection(self.url.rpartition("//")[2])

    def post(self, body: bytes) -> bytes:
        """Return the answer to one request."""
        self.connection.request("POST", "/v1/judge", body, {"Content-Type": "application/json"})
        answer = self.connection.getresponse()
        content = answer.read()
        assert answer.status == 200, content
        return content

    def resident_mib(self) -> float:
        """Return the service's resident memory, MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    def descriptors(self) -> int:
        """Return how many descriptors the service has open."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def close(self) -> None:
        """End the service."""
        self.connection.close()
        self.process.terminate()
        self.process.wait()


def body_of(completions: list[tuple[str, str | None]], judges: list[str]) -> bytes:
    """Return a request's body."""
    items = [
        {"id": str(number), "prompt": "p", "completion": completion, "ground_truth": gold}
        for number, (completion, gold) in enumerate(completions)
    ]
    return json.dumps({"items": items, "judges": judges}).encode()


def rate(verdicts: int, started: float) -> float:
    """Return verdicts per second since `started`."""
    return verdicts / (time.perf_counter() - started)


def text_rules(server: Server, rounds: int = 5) -> None:
    """Print the ratio of batched to single."""
    one = body_of([("some words to count, and a full stop.", None)], ["word_count"])
    many = body_of([("some words to count, and a full stop.", None)] * 64, ["word_count"])
    single, batched = [], []
    for _ in range(rounds):
        started = time.perf_counter()
        for _ in range(300):
            server.post(one)
        single.append(rate(300, started))
        started = time.perf_counter()
        for _ in range(100):
            server.post(many)
        batched.append(rate(6400, started))
    print(f"word_count, one a request   {median(single):10.0f} verdicts/s")
    print(f"word_count, 64 a request    {median(batched):10.0f} verdicts/s")
    print(f"ratio                       {median(batched) / median(single):10.1f}")


def mathematics(server: Server, rounds: int = 5) -> None:
    """Print the ratios of `math_answer` over HTTP to a bare pool, and to a process per answer."""
    body = body_of(MATH_ROWS, ["math_answer"])
    server.post(body)
    over_http, bare, forked = [], [], []
    context = multiprocessing.get_context("forkserver")
    fork = multiprocessing.get_context("fork")  # the quickest way there is: math-verify is loaded already
    context.set_forkserver_preload(["math_verify"])
    with context.Pool(WORKERS, quiet) as pool:
        pool.map(verify_bare, MATH_ROWS, chunksize=8)
        for _ in range(rounds):
            started = time.perf_counter()
            outcomes = [r["verdicts"][0]["outcome"] == "satisfied" for r in json.loads(server.post(body))["results"]]
            over_http.append(rate(len(MATH_ROWS), started))
            started = time.perf_counter()
            expected = pool.map(verify_bare, MATH_ROWS, chunksize=8)
            bare.append(rate(len(MATH_ROWS), started))
            assert outcomes == expected
            started = time.perf_counter()
            for first in range(0, FORKED_ROWS, WORKERS):
                processes = [fork.Process(target=verify_bare, args=(row,)) for row in MATH_ROWS[first:][:WORKERS]]
                for process in processes:
                    process.start()
                for process in processes:
                    process.join()
            forked.append(rate(FORKED_ROWS, started))
    print(f"math-verify, bare pool      {median(bare):10.0f} verdicts/s")
    print(f"math-verify, one process each {median(forked):8.0f} verdicts/s")
    print(f"math_answer over HTTP       {median(over_http):10.0f} verdicts/s")
    print(f"ratio to the bare pool      {median(over_http) / median(bare):10.2f}")
    print(f"ratio to a process each     {median(over_http) / median(forked):10.2f}")


def memory(server: Server, verdicts: int) -> None:
    """Print the growth of the service over many verdicts."""
    judges = ["word_count", "no_repetition"]
    body = body_of([(f"Sentence {number} of this text is fine. " * 5, None) for number in range(256)], judges)
    for _ in range(100):
        server.post(body)
    before, descriptors = server.resident_mib(), server.descriptors()
    given = 0
    while given < verdicts:
        server.post(body)
        given += 512
    after = server.resident_mib()
    print(f"memory over {given} verdicts  {before:.1f} -> {after:.1f} MiB, {100 * (after / before - 1):+.1f} %")
    print(f"descriptors                 {descriptors} -> {server.descriptors()}")


def main() -> None:
    """Run all five."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--verdicts", type=int, default=100_000, help="text-rule verdicts of the memory test")
    verdicts = parser.parse_args().verdicts
    quiet()
    verify_bare(MATH_ROWS[0])  # its tables are built once; a forked process has them
    server = Server("--workers", str(WORKERS), "--no-require-sandbox")
    try:
        text_rules(server)
        mathematics(server)
        memory(server, verdicts)
    finally:
        server.close()
    sys.stdout.flush()
    subprocess.run([sys.executable, "-m", "benchmarks.sandbox"], check=True)


if __name__ == "__main__":
    main()
