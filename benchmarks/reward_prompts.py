"""K completions of each prompt, with what they begin with shared and not: python -m benchmarks.reward_prompts

Two reward services with the embedded model, one with `share_prefix: false`, take turns over the same items. Prints the
median of some rounds and the ratio, for prompts of several lengths.
"""

import argparse
import os
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from statistics import median

from benchmarks.step import embedded
from trainer.services import reward_service
from wire import RewardClient, ScoreItem, ScoreResponse

WORDS = [
    "the",
    "keeper",
    "of",
    "an",
    "old",
    "map",
    "found",
    "that",
    "light",
    "was",
    "brighter",
    "than",
    "any",
    "town",
    "he",
    "had",
    "seen",
    "before",
    "and",
    "he",
]


@contextmanager
def sharing(wanted: bool) -> Iterator[None]:
    """Have services that are started meanwhile share beginnings, or not."""
    os.environ["REWARD_SERVICE_SHARE_PREFIX"] = str(wanted).lower()
    try:
        yield
    finally:
        os.environ.pop("REWARD_SERVICE_SHARE_PREFIX")


def items(num_prompts: int, k: int, prompt_words: int, completion_words: int) -> list[ScoreItem]:
    """Return completions of prompts, in no order."""
    draw = random.Random(prompt_words)
    prompts = [" ".join(draw.choices(WORDS, k=prompt_words)) for _ in range(num_prompts)]
    texts = [(prompt, " ".join(draw.choices(WORDS, k=completion_words))) for prompt in prompts for _ in range(k)]
    draw.shuffle(texts)
    return [ScoreItem(id=str(i), prompt=prompt, completion=text) for i, (prompt, text) in enumerate(texts)]


def scores_of(answer: ScoreResponse) -> list[float]:
    """Return the scores; one that is missing ends the run, for it is no score of 0."""
    missing = next((one.error for one in answer.results if one.score is None), None)
    if missing is not None:
        raise SystemExit(f"an item has no score, so there is nothing to compare: {missing.type}, {missing.detail}")
    return [one.score for one in answer.results if one.score is not None]


def main() -> None:
    """Start both services, let them take turns, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="after a first one; the median is printed")
    parser.add_argument("--prompts", type=int, default=6, help="in one request")
    parser.add_argument("--k", type=int, default=8, help="completions of each")
    given = parser.parse_args()
    if min(given.rounds, given.prompts, given.k) < 1:
        parser.error("--rounds, --prompts and --k are at least 1")
    model = embedded()["reward_model"]
    print("| words of a prompt | each alone | beginnings shared | ratio | largest move of a score |")
    print("|---|---|---|---|---|")
    with ExitStack() as stack:
        clients = []
        for wanted in (False, True):
            with sharing(wanted):
                url = stack.enter_context(reward_service(model))
            clients.append(stack.enter_context(RewardClient(url)))
        alone, shared = clients
        for prompt_words in (20, 100, 400):
            asked = items(given.prompts, given.k, prompt_words, 62)
            seconds: dict[RewardClient, list[float]] = {alone: [], shared: []}
            scores = {}
            for _ in range(given.rounds + 1):
                for client, taken in seconds.items():
                    started = time.perf_counter()
                    answer = client.score(asked, deadline_s=600.0)
                    taken.append(time.perf_counter() - started)
                    scores[client] = scores_of(answer)
            a, b = (median(taken[1:]) for taken in seconds.values())
            move = max(abs(x - y) for x, y in zip(*scores.values(), strict=True))
            print(f"| {prompt_words} | {a:.2f} s | {b:.2f} s | {a / b:.2f}x | {move:.3f} |", flush=True)


if __name__ == "__main__":
    main()
