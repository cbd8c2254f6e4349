"""Overhead and requests of the LLM judges: `python benchmarks/llm_judges.py [--rounds N]`.

A fake upstream in a process of its own answers `/v1/systemone` after 20 ms and counts what it gets.

1. Overhead: 64 items at once, in one request to the judge service, against the same 64 bodies sent bare to the upstream
   with one `httpx.AsyncClient`, both with 64 requests under way. Wanted: at most 1.15 times the time, in the same run.
   Most of what that client costs is its pool, so a caller who has 64 clients of one connection each is shown beside it.
2. Requests: four LLM judges on 100 completions. Wanted: at most 100 upstream requests, and none in a second run.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import subprocess
import sys
import time
from contextlib import AsyncExitStack
from http.client import HTTPConnection
from statistics import median
from typing import Any, ClassVar

import httpx

DELAY_S = 0.020
ITEMS = 64
PROMPT = "Explain how the tides come about, for somebody who has never seen the sea."
COMPLETION = (
    "The Moon pulls at the sea. On the side of the Earth that faces it the pull is strongest, so the water there is "
    "drawn up a little; on the far side it is weakest, and the water stays behind. That makes two bulges. The Earth "
    "turns once a day below them, so that a beach passes through both: the water rises and falls about twice a day. "
    "The Sun does the same, only weaker. When both pull along one line, at new and full Moon, the tides are highest; "
    "when they pull at right angles, at half Moon, they are lowest. Bays and coasts then make them larger or smaller."
)


class Fake(asyncio.Protocol):
    """A fake upstream: HTTP/1.1 as far as this benchmark needs it, so that the server costs next to nothing."""

    num_requests = 0
    bodies: ClassVar[list[bytes]] = []

    def connection_made(self, transport: Any) -> None:
        """Keep the connection."""
        self.transport, self.received = transport, b""

    def data_received(self, data: bytes) -> None:
        """Answer each complete request after the delay."""
        self.received += data
        while b"\r\n\r\n" in self.received:
            head, _, rest = self.received.partition(b"\r\n\r\n")
            fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
            length = int(fields.get(b"content-length", b"0"))
            if len(rest) < length:
                return
            body, self.received = rest[:length], rest[length:]
            if head.startswith(b"GET"):
                self.answer({"requests": Fake.num_requests, "bodies": [one.decode() for one in Fake.bodies[-ITEMS:]]})
                continue
            if b"Two plus two is four" not in body:
                Fake.num_requests += 1
                Fake.bodies.append(body)
            asked = json.loads(body)
            answers = {name: {"type": "noul", "noul": 0.9 if int(name[1:]) % 2 else 0.1} for name in asked["questions"]}
            reply = {"model": "fake", "answers": answers, "usage": {"input_tokens": 200, "output_tokens": 0}}
            asyncio.get_running_loop().call_later(DELAY_S, self.answer, reply)

    def answer(self, reply: dict[str, Any]) -> None:
        """Send a 200."""
        body = json.dumps(reply).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self.transport.write(head.encode() + body)


def serve_fake(port: Any) -> None:
    """Serve the fake until the process is ended."""

    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(Fake, "127.0.0.1", 0, backlog=512)
        port.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


def start_service(upstream_port: int) -> tuple[subprocess.Popen[str], str]:
    """Return a judge service in a process of its own, and where it listens."""
    upstream = {"url": f"http://127.0.0.1:{upstream_port}/v1", "backend": "systemone", "model": "fake"}
    llm = {"upstreams": {"fake": {**upstream, "concurrency": ITEMS}}, "default": "fake", "canaries_right": 0}
    command = [sys.executable, "-m", "judge_service", "--port", "0", "--workers", "1", "--no-require-sandbox"]
    environment = {**os.environ, "JUDGE_SERVICE_LLM": json.dumps(llm)}
    process = subprocess.Popen([*command, "--log-level", "WARNING"], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    return process, process.stdout.readline().strip().rpartition("//")[2]


def body_of(numbers: range, judges: list[Any]) -> bytes:
    """Return a request's body about completions that differ, so that the cache knows none of them."""
    items = [{"id": str(n), "prompt": PROMPT, "completion": f"{n}. {COMPLETION}"} for n in numbers]
    return json.dumps({"items": items, "judges": judges}).encode()


def post(connection: HTTPConnection, body: bytes) -> dict[str, Any]:
    """Return the judge service's answer."""
    connection.request("POST", "/v1/judge", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    content: dict[str, Any] = json.loads(answer.read())
    assert answer.status == 200, content
    return content


def look(port: int) -> dict[str, Any]:
    """Return what the fake has counted."""
    connection = HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/", headers={"Connection": "keep-alive"})
    content: dict[str, Any] = json.loads(connection.getresponse().read())
    connection.close()
    return content


async def overhead(port: int, service: HTTPConnection, rounds: int) -> None:
    """Print the ratio of asking through the judge service to asking bare, the two in turns."""
    post(service, body_of(range(-ITEMS, 0), ["no_refusal"]))
    bodies = [one.encode() for one in look(port)["bodies"]]
    url, headers = f"http://127.0.0.1:{port}/v1/systemone", {"Content-Type": "application/json"}
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=ITEMS)
    bare_s, apart_s, through_s = [], [], []

    async def bare(clients: list[httpx.AsyncClient]) -> float:
        async def ask(client: httpx.AsyncClient, body: bytes) -> None:
            answer = await client.post(url, content=body, headers=headers)
            assert "q1" in answer.json()["answers"]

        started = time.perf_counter()
        await asyncio.gather(*map(ask, clients, bodies))
        return time.perf_counter() - started

    async with AsyncExitStack() as stack:
        context = httpx.create_ssl_context()
        client, *apart = [
            await stack.enter_async_context(
                httpx.AsyncClient(verify=context, limits=limits, timeout=30, trust_env=False)
            )
            for _ in range(1 + ITEMS)
        ]
        await bare([client] * ITEMS)
        await bare(apart)
        for number in range(rounds):
            bare_s.append(await bare([client] * ITEMS))
            apart_s.append(await bare(apart))
            body = body_of(range(number * ITEMS, (number + 1) * ITEMS), ["no_refusal"])
            started = time.perf_counter()
            answer = post(service, body)
            through_s.append(time.perf_counter() - started)
            assert {one["verdicts"][0]["outcome"] for one in answer["results"]} == {"satisfied"}
    ratios = [through / bare for through, bare in zip(through_s, bare_s, strict=True)]
    print(f"bare, {ITEMS} at once              {median(bare_s) * 1000:8.1f} ms")
    print(f"through the judge service     {median(through_s) * 1000:8.1f} ms")
    print(f"ratio of the medians          {median(through_s) / median(bare_s):8.2f}   wanted at most 1.15")
    print(f"median of the ratios          {median(ratios):8.2f}")
    print(f"bare, a client per connection {median(apart_s) * 1000:8.1f} ms")
    print(f"ratio of the medians          {median(through_s) / median(apart_s):8.2f}")


def requests(port: int, service: HTTPConnection) -> None:
    """Print how many upstream requests four judges on a hundred completions make, twice."""
    judges = ["no_refusal", "safety", "on_topic", {"name": "rubric", "parameters": {"criterion": "it is short"}}]
    body = body_of(range(100_000, 100_100), judges)
    for run in ("first", "second"):
        before = look(port)["requests"]
        verdicts = sum(len(result["verdicts"]) for result in post(service, body)["results"])
        print(f"{verdicts} verdicts, {run} run    {look(port)['requests'] - before:8d} upstream requests")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    arguments = parser.parse_args()
    queue = multiprocessing.Queue()
    fake = multiprocessing.Process(target=serve_fake, args=(queue,), daemon=True)
    fake.start()
    port = queue.get()
    process, address = start_service(port)
    try:
        service = HTTPConnection(address)
        asyncio.run(overhead(port, service, arguments.rounds))
        requests(port, service)
    finally:
        process.terminate()
        process.wait()
        fake.terminate()


if __name__ == "__main__":
    main()
