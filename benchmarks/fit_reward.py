"""Held-out accuracy of `cgpo fit-reward` on 2,000 pairs that the embedded policy's own answers make.

    python benchmarks/fit_reward.py [--pairs 2000] [--train head]

Prompts are questions about things, five to a thing; an answer is preferred to the same answer spoiled (another answer,
cut, shuffled, repeated, refused). A tenth of the prompts is held out. Then the reward service serves what was fitted,
and its scores are compared with those of transformers for the same texts one by one, both in float32.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from trainer.embedded import embedded_models, own_answers
from trainer.preference import KINDS, made_pairs
from trainer.services import reward_service
from wire import RewardClient, ScoreItem

QUESTIONS = ("What is {}?", "Write one sentence about {}.", "Why do people like {}?", "Where do we find {}?",
             "Tell a child about {}.")  # fmt: skip
THINGS = """
bread, rain, a violin, the moon, honey, chess, a lighthouse, snow, a bicycle, tea, a desert, the
sea, a clock, a garden, iron, a horse, an island, the wind, a library, salt, a bridge, a river, an
owl, a map, fire, wool, a kite, a mirror, paper, a mountain, coffee, a train, a castle, gold, a
whale, cheese, a piano, thunder, a forest, glass, a spider, a ship, a school, cotton, the sun, a
wolf, rice, a candle, football, a volcano, a painting, milk, a tower, an apple, a doctor, silver, a
tent, a market, ice, a rose, a farmer, sugar, a tiger, sand, a window, a song, wheat, an engine, a
drum, a lake, a shoe, pepper, an ant, a star, wine, a story, a letter, a cave, a poet, oil
""".replace("\n", " ")


SERVED = 64


def compare(folder: Path, rows: list[dict[str, str]]) -> None:
    """Print how far the service's scores of these rows' answers are from those of transformers."""
    texts = list(dict.fromkeys((row["prompt"], row[side]) for row in rows for side in ("chosen", "rejected")))
    items = [ScoreItem(id=str(i), prompt=prompt, completion=answer) for i, (prompt, answer) in enumerate(texts)]
    os.environ["REWARD_SERVICE_DTYPE"] = "float32"
    with reward_service(folder) as url, RewardClient(url, deadline_s=600) as client:
        served = [result.score for result in client.score(items).results]
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    apart = []
    for item, score in zip(items, served, strict=True):
        turns = [{"role": "user", "content": item.prompt}, {"role": "assistant", "content": item.completion}]
        with torch.inference_mode():
            own = model(**tokenizer.apply_chat_template(turns, return_tensors="pt", return_dict=True)).logits.item()
        assert score is not None, item.id
        apart.append(abs(score - own))
    print(f"{len(items)} texts: the service's scores differ from those of transformers by {max(apart):.2g} at most")


def main() -> None:
    """Make the pairs, run the command, print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--train", default="head")
    options = parser.parse_args()
    things = [thing.strip() for thing in THINGS.split(",")]
    # Every thing under every question before anything repeats: 5 x 80 prompts, five kinds of spoiling each.
    prompts = [question.format(thing) for question, thing in itertools.product(QUESTIONS, things)]
    prompts = prompts[: -(-options.pairs // len(KINDS)) + len(prompts) // 50]
    folder = embedded_models().policy
    policy, tokenizer = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16),
        AutoTokenizer.from_pretrained(folder),
    )
    started = time.monotonic()
    answers = own_answers(policy.eval(), tokenizer, prompts)
    pairs = made_pairs(prompts, answers, per_prompt=len(KINDS), seed=0)[: options.pairs]
    print(f"{len(pairs)} pairs of {len(prompts)} prompts, answered in {time.monotonic() - started:.0f} s", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "pairs.jsonl"
        rows = [{"prompt": p.prompt[0][1], "chosen": p.chosen[0][1], "rejected": p.rejected[0][1]} for p in pairs]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        command = [str(Path(sys.executable).with_name("cgpo")), "fit-reward", str(file), "--train", options.train,
                   "--output", str(Path(scratch) / "reward")]  # fmt: skip
        started = time.monotonic()
        subprocess.run(command, check=True)
        print(f"cgpo fit-reward --train {options.train}: {time.monotonic() - started:.0f} s in all", flush=True)
        compare(Path(scratch) / "reward", rows[:: max(1, len(rows) // SERVED)])


if __name__ == "__main__":
    main()
