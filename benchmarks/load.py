"""Load on three judge services, real processes, from one client: `python -m benchmarks.load [--items N] [--soak N]`.

1. N items (65,000) are handed to one client at once, and a quarter of them before, so that it shows what memory depends
   on. Wanted: every verdict at its own item, each given once, and memory bounded: of the services by what is on the
   wire, of the client by a few KiB an item.
2. With `--soak 1000000`: a million items in batches of 10,000, an hour of a large training run. Wanted: memory of each
   service grows less than 5 % after the first tenth, descriptors and processes stay as many as they were.

Of 1,000 items 960 are for text rules, 38 for `math_answer` and 2 for `python_tests`. What each verdict has to be is
known from the item's number, so a verdict that strayed to another item is found. Status 1 where anything wanted is not
so. The times printed are no measurements: client and services share the machine.
"""

import argparse
import re
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack
from statistics import median

import httpx
import psutil

from benchmarks.judges import Server
from wire import JudgeClient, JudgeItem, JudgeResult, JudgeSpec

REPLICAS = 3
CONCURRENCY, ITEMS_PER_REQUEST = 16, 1024
BATCH = 10_000
DEADLINE_S = 3600.0
MOST_GROWTH = 0.05
CLIENT_KIB_PER_ITEM = 16
SERVICE_MIB = 400
"""Most that a service may grow by while all items are in flight; 16 requests of 1,024 items are on the wire at once."""
MAX_WORDS = 20
EVEN = JudgeSpec(name="word_count", parameters={"max": MAX_WORDS})


def item_of(number: int) -> JudgeItem:
    """Return an item whose verdicts follow from its number."""
    place, id_ = number % 1000, str(number)
    if place < 2:
        program = f"def f(x):\n    return x + {number}\n"
        tests = [f"assert f(1) == {number + 1 + place}"]
        return JudgeItem(id=id_, prompt="", completion=program, metadata={"tests": tests}, judges=["python_tests"])
    if place < 40:
        truth = str(number + place % 2)
        return JudgeItem(
            id=id_, prompt="", completion=f"So \\boxed{{{number}}}.", ground_truth=truth, judges=["math_answer"]
        )
    # 1 to 40 words, and the number itself among them.
    text = " ".join([id_, *["word"] * (number % 40)])
    return JudgeItem(id=id_, prompt="", completion=text, judges=[EVEN, JudgeSpec(name="lacks", parameters={
        "keywords": [str(number + place % 2)]})])  # fmt: skip


def is_right(number: int, result: JudgeResult) -> bool:
    """Return whether a result is that of the item of this number."""
    place = number % 1000
    outcomes = [verdict.outcome for verdict in result.verdicts]
    wanted = "violated" if place % 2 else "satisfied"
    if place < 40:
        return result.id == str(number) and outcomes == [wanted]
    words, keyword = result.verdicts
    count = number % 40 + 1
    return (
        result.id == str(number)
        and words.reason.startswith(f"{count} words")
        and words.outcome == ("satisfied" if count <= MAX_WORDS else "violated")
        and keyword.outcome == ("satisfied" if place % 2 else "violated")
    )


class Replica:
    """A judge service and all its processes, as `/proc` shows them."""

    def __init__(self) -> None:
        self.server = Server("--workers", "1", environment={"JUDGE_SERVICE_ITEMS_PER_REQUEST": str(ITEMS_PER_REQUEST)})
        self.process = psutil.Process(self.server.process.pid)

    def resident_mib(self) -> float:
        """Return the resident memory of the service itself, MiB."""
        return self.process.memory_info().rss / 2**20

    def tree(self) -> tuple[int, int]:
        """Return how many processes it is made of, and the descriptors of the service itself."""
        return 1 + len(self.process.children(recursive=True)), self.process.num_fds()

    def verdicts(self) -> int:
        """Return how many verdicts it has given."""
        text = httpx.get(f"{self.server.url}/metrics", trust_env=False).text
        return int(sum(float(number) for number in re.findall(r"^verdicts_total\{.*\} (\S+)$", text, re.MULTILINE)))


class Watch:
    """The largest memory of client and services, looked at ten times a second."""

    def __init__(self, replicas: list[Replica]) -> None:
        self._replicas, self._own = replicas, psutil.Process()
        self._ended = threading.Event()
        self.before = self._now()
        self.peak = self.before
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _now(self) -> list[float]:
        return [self._own.memory_info().rss / 2**20, *(replica.resident_mib() for replica in self._replicas)]

    def _look(self) -> None:
        while not self._ended.wait(0.1):
            self.peak = [max(pair) for pair in zip(self.peak, self._now(), strict=True)]

    def end(self) -> list[float]:
        """Return by how much each grew at most: the client, then the services, MiB."""
        self._ended.set()
        self._thread.join()
        return [peak - before for peak, before in zip(self.peak, self.before, strict=True)]


def all_ready(client: JudgeClient) -> None:
    """Wait until every replica is ready."""
    for url in client.urls:
        with JudgeClient(url) as one:
            while one.ready().status != "ok":
                time.sleep(0.2)


def wrong_of(first: int, results: list[JudgeResult]) -> int:
    """Return how many results are not those of the items from `first` on."""
    return sum(not is_right(first + place, result) for place, result in enumerate(results))


def in_flight(client: JudgeClient, replicas: list[Replica], count: int) -> bool:
    """Hand a client all items at once; print and return whether what came back is what is wanted."""
    items = [item_of(number) for number in range(count)]
    given = [replica.verdicts() for replica in replicas]
    watch, started = Watch(replicas), time.perf_counter()
    results = client.judge(items, deadline_s=DEADLINE_S)
    seconds, grown = time.perf_counter() - started, watch.end()
    shares = [replica.verdicts() - before for replica, before in zip(replicas, given, strict=True)]
    wanted, wrong = sum(len(item.judges or []) for item in items), wrong_of(0, results)
    outcomes = Counter(verdict.outcome for result in results for verdict in result.verdicts)
    print(f"{count} items at once, {seconds:.0f} s")
    print(
        f"  verdicts                  {sum(outcomes.values())} of {wanted}: {dict(outcomes)}; at a wrong item {wrong}"
    )
    print(f"  given by the services     {sum(shares)} = {' + '.join(map(str, shares))}")
    print(f"  client grew by at most    {grown[0]:.0f} MiB, {1024 * grown[0] / count:.1f} KiB an item")
    print(f"  services grew by at most  {', '.join(f'{one:.0f}' for one in grown[1:])} MiB")
    sys.stdout.flush()
    is_once = sum(shares) == wanted and not wrong and len(results) == count
    return is_once and 1024 * grown[0] / count <= CLIENT_KIB_PER_ITEM and max(grown[1:]) <= SERVICE_MIB


def soak(client: JudgeClient, replicas: list[Replica], count: int) -> bool:
    """Judge many items in batches; print a line per tenth, and return whether the services stayed as they were."""
    wrong = 0
    memory: list[list[float]] = []
    trees: list[list[tuple[int, int]]] = []
    started, rounds = time.perf_counter(), max(20, count // BATCH)
    print(f"soak of {rounds * BATCH} items\n  items     s      wrong  of each service: MiB; processes, descriptors")
    for turn in range(rounds):
        first = turn * BATCH
        wrong += wrong_of(first, client.judge([item_of(first + place) for place in range(BATCH)]))
        memory.append([replica.resident_mib() for replica in replicas])
        trees.append([replica.tree() for replica in replicas])
        if (turn + 1) % (rounds // 10) == 0:
            each = "   ".join(f"{m:.1f}; {p}, {d}" for m, (p, d) in zip(memory[-1], trees[-1], strict=True))
            print(f"  {first + BATCH:<9} {time.perf_counter() - started:<6.0f} {wrong:<6} {each}")
            sys.stdout.flush()
    tenth = rounds // 10
    growth = [
        median(row[place] for row in memory[-tenth:]) / median(row[place] for row in memory[tenth : 2 * tenth]) - 1
        for place in range(len(replicas))
    ]
    print(f"  growth after the first tenth: {', '.join(f'{100 * one:+.1f} %' for one in growth)}")
    # The client's connections, at most 16, are among the descriptors.
    before, after = most(trees[tenth : 2 * tenth]), most(trees[-tenth:])
    print(f"  most processes and descriptors of a service in the second tenth and in the last: {before} -> {after}")
    return wrong == 0 and max(growth) < MOST_GROWTH and after <= before


def most(trees: list[list[tuple[int, int]]]) -> tuple[int, int]:
    """Return the most processes and the most descriptors that any service had."""
    each = [tree for row in trees for tree in row]
    return max(processes for processes, _ in each), max(descriptors for _, descriptors in each)


def main() -> int:
    """Start the services and run what is asked for; return 1 where something is not as wanted."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--items", type=int, default=65_000, help="items in flight at once; 0: leave this part out")
    parser.add_argument("--soak", type=int, default=0, help="items of the soak, at least 200,000; 0: no soak")
    given = parser.parse_args()
    with ExitStack() as stack:
        replicas = [Replica() for _ in range(REPLICAS)]
        for replica in replicas:
            stack.callback(replica.server.close)
        client = stack.enter_context(
            JudgeClient(
                [replica.server.url for replica in replicas],
                concurrency=CONCURRENCY,
                items_per_request=ITEMS_PER_REQUEST,
                deadline_s=DEADLINE_S,
            )
        )
        all_ready(client)
        is_well = [in_flight(client, replicas, count) for count in (given.items // 4, given.items) if count]
        if given.soak:
            is_well.append(soak(client, replicas, given.soak))
    print("as wanted" if all(is_well) else "NOT as wanted")
    return 0 if all(is_well) else 1


if __name__ == "__main__":
    sys.exit(main())
