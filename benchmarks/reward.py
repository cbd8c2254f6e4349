"""Ratios of the reward service, all sides in one run: `python -m benchmarks.reward [--items N] [--only PART]`.

The texts are those of a trainer's step: completions of 1 to 100 words, four to a prompt, in the model's chat template.
That of the embedded model begins each text with the same system turn of 24 tokens, which the service computes once
(`--no-share-prefix`: it does not).

1. throughput: 64 clients over HTTP against a bare transformers loop over the same texts, sorted by length, with the
   best batch size it can have (wanted: at least 0.90); against transformers' text-classification pipeline with its best
   batch size (at least 1.5); against a server of the pattern of OpenRLHF's serve_rm: one FastAPI process, each request
   a batch of its own, in fixed micro-batches, nothing joined (ahead of it). One type for all, that of the service.
2. latency: one request on an idle service against the same forward pass without it (at most 10 ms more).
3. growth: time per token from 1,000 to 100,000 short items (within 15 %), and the service's memory. With a model of one
   small layer, so that what the service itself does is not hidden behind the forward passes.
4. batch mates: how far a score moves with them, in float32 (at most 1e-4) and bfloat16, and the latter from the former.
5. widths: what rounding a batch's width up costs and saves in bfloat16 on a CPU: each shape has a kernel there.

Processor time, of a service and of its clients together, is printed beside the clock: on a machine that does other work
it is the steadier of the two. OMP_NUM_THREADS is obeyed by every side.
"""

import os

from trainer.environment import THREADS

# Read when torch is loaded, here and in the other side's process.
os.environ.update({**THREADS, **os.environ})

import argparse
import http.client
import json
import logging
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

import torch
from transformers import (
    AutoConfig,
    AutoTokenizer,
    LlamaConfig,
    LlamaForSequenceClassification,
    pipeline,
)

import reward_service.model
from benchmarks.reward_peers import Plain, serve_peer
from reward_service.model import check_model
from reward_service.settings import RewardSettings
from trainer.embedded import embedded_models
from wire import RewardClient, ScoreItem

CLIENTS = 64
ITEMS_PER_REQUEST = 2
COMPLETIONS = 4
SENTENCE = (
    "the answer is that we add both sides and find a number which is even because every sum of two odd numbers has "
    "this property and nothing else was asked of us here so it is enough to say why"
)
WORDS = SENTENCE.split()


def items_of(num: int, longest: int = 100) -> list[ScoreItem]:
    """Return completions of 1 to `longest` words, four to a prompt, always the same ones."""
    chance = random.Random(0)
    return [
        ScoreItem(
            id=str(n),
            prompt=f"{n // COMPLETIONS} is a number; is it even, and how do we know?",
            completion=" ".join(chance.choices(WORDS, k=chance.randint(1, longest))),
        )
        for n in range(num)
    ]


@contextmanager
def process(*arguments: str) -> Iterator[tuple[int, str]]:
    """Start a Python process that prints its URL last in its first line; its id and its host:port."""
    with subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True) as started:
        try:
            assert started.stdout is not None
            address = started.stdout.readline().strip().rpartition("//")[2]
            while not accepts(address):
                assert started.poll() is None, f"{arguments} has ended"
                time.sleep(0.1)
            yield started.pid, address
        finally:
            started.terminate()


def accepts(address: str) -> bool:
    """Return whether something listens."""
    host, _, port = address.partition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


@contextmanager
def service(folder: Path, *arguments: str) -> Iterator[tuple[int, str]]:
    """Start the reward service; yield once it is ready."""
    command = ("-m", "reward_service", "--model", str(folder), "--port", "0", "--log-level", "WARNING", *arguments)
    with process(*command) as (pid, address):
        with RewardClient(f"http://{address}") as client:
            while (health := client.ready()).status != "ok":
                assert "not loaded yet" in health.reasons[0], health.reasons
                time.sleep(0.2)
        yield pid, address


def post(connection: http.client.HTTPConnection, path: str, body: object) -> dict:
    """Return the answer to one request on a kept connection."""
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    content = answer.read()
    assert answer.status == 200, content
    return json.loads(content)


def by_clients(address: str, items: Sequence[ScoreItem], ask: Callable[..., list[float]]) -> list[float]:
    """Return the scores of all items as 64 clients get them, each with one kept connection and a share of the items."""

    def client(share: Sequence[ScoreItem]) -> list[float]:
        connection = http.client.HTTPConnection(address)
        starts = range(0, len(share), ITEMS_PER_REQUEST)
        scores = [one for start in starts for one in ask(connection, share[start : start + ITEMS_PER_REQUEST])]
        connection.close()
        return scores

    size = -(-len(items) // CLIENTS)
    shares = [items[start : start + size] for start in range(0, len(items), size)]
    with ThreadPoolExecutor(CLIENTS) as clients:
        return [score for scores in clients.map(client, shares) for score in scores]


def ask_service(connection: http.client.HTTPConnection, items: Sequence[ScoreItem]) -> list[float]:
    """Return scores by the reward service."""
    answer = post(connection, "/v1/score", {"items": [item.model_dump() for item in items]})
    return [result["score"] for result in answer["results"]]


def timed(work: Callable[[], list[float]]) -> tuple[float, list[float]]:
    """Return the seconds that it takes, and what comes of it."""
    started = time.perf_counter()
    scores = work()
    return time.perf_counter() - started, scores


def processor_s(server: int | None) -> float:
    """Return the processor time so far of this process, and of the server that it asks, seconds."""
    return time.process_time() + (cpu_s(server) if server else 0.0)


def best(sizes: Sequence[int], work: Callable[[int], object]) -> int:
    """Return the batch size with which the work takes least time; the first of two tries warms up."""
    work(sizes[0])
    seconds = {}
    for size in sizes:
        started = time.perf_counter()
        work(size)
        seconds[size] = time.perf_counter() - started
    return min(seconds, key=seconds.__getitem__)


def throughput(folder: Path, dtype: str, num: int, rounds: int) -> None:
    """Print the ratios of the service's throughput."""
    items, plain = items_of(num), Plain(folder, dtype)
    classify = pipeline("text-classification", model=plain.model, tokenizer=plain.tokenizer, function_to_apply="none")
    texts = [plain.text(item) for item in items]
    few = items[:: max(1, num // 24)]
    size = best((8, 16, 32), lambda size: plain.score_all(few, size))
    pipe_size = best((1, 4, 16), lambda size: classify([plain.text(item) for item in few], batch_size=size))

    def ask_peer(connection: http.client.HTTPConnection, share: Sequence[ScoreItem]) -> list[float]:
        return post(connection, "/get_reward", {"query": [plain.text(item) for item in share]})["rewards"]

    with ExitStack() as stack:
        our_id, ours = stack.enter_context(service(folder, "--dtype", dtype))
        peer_id, peer = stack.enter_context(
            process("-m", "benchmarks.reward", "--serve-peer", str(folder), "--dtype", dtype)
        )
        sides: dict[str, tuple[int | None, Callable[[], list[float]]]] = {
            "bare loop": (None, lambda: plain.score_all(items, size)),
            "service": (our_id, lambda: by_clients(ours, items, ask_service)),
            "pipeline": (None, lambda: [one["score"] for one in classify(texts, batch_size=pipe_size)]),
            "peer": (peer_id, lambda: by_clients(peer, items, ask_peer)),
        }
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        processor: dict[str, list[float]] = {name: [] for name in sides}
        by_clients(peer, few, ask_peer)
        by_clients(ours, few, ask_service)
        for _ in range(rounds):
            scores = {}
            for name, (server, work) in sides.items():
                before = processor_s(server)
                spent, scores[name] = timed(work)
                seconds[name].append(spent)
                processor[name].append(processor_s(server) - before)
            apart = max(abs(a - b) for a, b in zip(scores["bare loop"], scores["service"], strict=True))
    print(f"throughput, {num} items, {dtype}, batch sizes {size} (bare loop) and {pipe_size} (pipeline)")
    for name, spent in seconds.items():
        each = ", ".join(f"{num / one:.1f}" for one in spent)
        print(f"  {name:10} {num / median(spent):7.1f} items/s ({each}), "
              f"{1000 * median(processor[name]) / num:7.1f} ms of processor time an item")  # fmt: skip
    for name in ("bare loop", "pipeline", "peer"):
        ratios = [
            median(other / own for other, own in zip(side[name], side["service"], strict=True))
            for side in (seconds, processor)
        ]
        print(f"  service to {name:10} {ratios[0]:5.2f} by the clock, {ratios[1]:5.2f} by processor time")
    print(f"  the service's scores and the bare loop's differ by {apart:.3g} at most")


def latency(folder: Path, dtype: str, rounds: int = 40) -> None:
    """Print what a single request costs above its forward pass."""
    plain, item = Plain(folder, dtype), items_of(1)[0]
    text, extra, bare = plain.text(item), [], []
    with service(folder, "--dtype", dtype) as (_, address):
        connection = http.client.HTTPConnection(address)
        for place in range(rounds + 5):
            forward, _ = timed(lambda: plain.score_texts([text]))
            request, _ = timed(lambda: ask_service(connection, [item]))
            if place >= 5:
                bare.append(forward)
                extra.append(request - forward)
        connection.close()
    print(f"latency of one item alone: forward {1000 * median(bare):.1f} ms, through the service "
          f"{1000 * median(extra):+.1f} ms")  # fmt: skip


def growth(folder: Path, sizes: Sequence[int], rounds: int) -> None:
    """Print time per token and memory of the service for more and more items.

    Each round has every size, and the smallest one again at its end: a machine is not equally fast all the time.
    """
    costs: dict[int, list[tuple[float, float]]] = {num: [] for num in sizes}
    with tempfile.TemporaryDirectory() as place:
        small = small_model(folder, Path(place))
        with service(small) as (pid, address), RewardClient(f"http://{address}", deadline_s=3600) as client:
            client.score(items_of(4000, 8))
            for _ in range(rounds):
                for num in (*sizes, sizes[0]):
                    items = items_of(num, 8)
                    for _ in range(max(1, min(5, 10_000 // num))):
                        costs[num].append(cost(client, items, pid))
                print(f"  a round ends with {memory_mib(pid):.0f} MiB", flush=True)
    medians = {num: [median(one[part] for one in tries) for part in (0, 1)] for num, tries in costs.items()}
    for num, (wall, cpu) in medians.items():
        print(f"  {num:7} items  {1e6 * wall:6.2f} us/token, {1e6 * cpu:6.2f} us/token of the service's CPU, median of "
              f"{len(costs[num])}")  # fmt: skip
    wall, cpu = (medians[sizes[-1]][part] / medians[sizes[0]][part] for part in (0, 1))
    print(f"  time per token at {sizes[-1]} items to that at {sizes[0]}: {wall:.2f}, of CPU {cpu:.2f}")


def cost(client: RewardClient, items: Sequence[ScoreItem], server: int) -> tuple[float, float]:
    """Return what a token of these items costs: seconds by the clock, and of the server's processor time."""
    before, started = cpu_s(server), time.perf_counter()
    response = client.score(items)
    wall = time.perf_counter() - started
    assert all(score.error is None for score in response.results)
    return wall / response.usage.tokens, (cpu_s(server) - before) / response.usage.tokens


def batch_mates(folder: Path) -> None:
    """Print how far scores move between alone and together, through the service's own code."""
    items, known = items_of(24), []
    for dtype in ("float32", "bfloat16"):
        model = check_model(RewardSettings(model=str(folder), dtype=dtype)).load()
        rows = [model.encode(item.prompt, item.completion).ids for item in items]
        alone = [model.score([row])[0] for row in rows]
        moved = max(abs(a - b) for a, b in zip(alone, model.score(rows), strict=True))
        print(f"batch mates move a score in {dtype} by {moved:.2g} at most; the scores spread over "
              f"{max(alone) - min(alone):.3g}")  # fmt: skip
        known.append(alone)
    moved = max(abs(a - b) / (1 + abs(a)) for a, b in zip(*known, strict=True))
    print(f"bfloat16 moves a score s from float32 by {moved:.2g} (1 + |s|) at most")


def widths(folder: Path) -> None:
    """Print time and memory of batches whose widths are as they come, and are rounded up; each in its own process."""
    for step in (1, reward_service.model.WIDTH_STEP):
        command = [sys.executable, "-m", "benchmarks.reward", "--model", str(folder), "--width-step", str(step)]
        subprocess.run(command, check=True)


def score_widths(folder: Path, step: int) -> None:
    """Print what batches of many widths take, when they are met first and again, and what memory stays."""
    reward_service.model.WIDTH_STEP = step
    model = check_model(RewardSettings(model=str(folder), dtype="bfloat16")).load()
    rows = [model.encode(item.prompt, item.completion).ids for item in items_of(240)]
    batches = [rows[start : start + size] for size in (1, 3, 8) for start in range(0, 20 * size, size)]
    before, seconds = memory_mib(os.getpid()), []
    for _ in range(2):
        started = time.process_time()
        for batch in batches:
            model.score(batch)
        seconds.append(time.process_time() - started)
    print(f"widths in steps of {step}: {seconds[0]:.1f} s of processor time when first met, {seconds[1]:.1f} s again, "
          f"{memory_mib(os.getpid()) - before:.0f} MiB more")  # fmt: skip


def small_model(folder: Path, place: Path) -> Path:
    """Return a model of one small layer with the tokenizer of another."""
    config = AutoConfig.from_pretrained(folder)
    torch.manual_seed(0)
    small = LlamaConfig(
        vocab_size=config.vocab_size, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, num_labels=1, pad_token_id=config.pad_token_id, eos_token_id=config.eos_token_id,
    )  # fmt: skip
    LlamaForSequenceClassification(small).save_pretrained(place)
    AutoTokenizer.from_pretrained(folder).save_pretrained(place)
    return place


def cpu_s(pid: int) -> float:
    """Return the processor time of a process so far, seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mib(pid: int) -> float:
    """Return the resident memory of a process, MiB."""
    return int(Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2].split()[0]) / 1024


def main() -> None:
    """Run the parts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, help="folder of a reward model; the embedded one by default")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--items", type=int, default=256, help="items of the throughput part")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of the throughput and the growth part")
    parser.add_argument("--growth", type=int, nargs="+", default=[1000, 10_000, 100_000], help="sizes of that part")
    parser.add_argument("--no-share-prefix", action="store_true", help="the service computes all rows as they are")
    parser.add_argument("--only", choices=["throughput", "latency", "growth", "batch_mates", "widths"])
    parser.add_argument("--serve-peer", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--width-step", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    if options.serve_peer:
        serve_peer(options.serve_peer, options.dtype)
        return
    if options.no_share_prefix:
        os.environ["REWARD_SERVICE_SHARE_PREFIX"] = "false"
    folder = options.model or embedded_models().reward_model
    if options.width_step:
        score_widths(folder, options.width_step)
        return
    parts: dict[str, Callable[[], None]] = {
        "throughput": lambda: throughput(folder, options.dtype, options.items, options.rounds),
        "latency": lambda: latency(folder, options.dtype),
        "growth": lambda: growth(folder, options.growth, options.rounds),
        "batch_mates": lambda: batch_mates(folder),
        "widths": lambda: widths(folder),
    }
    for name, part in parts.items():
        if options.only in (None, name):
            part()


if __name__ == "__main__":
    main()
