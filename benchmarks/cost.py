"""How a training step grows with K and with the length of completions: python -m benchmarks.cost

One trainer takes a step of each size in turn, again and again: K in 2, 4, 8, 16 at 64 tokens, and completions of 32,
64, 128, 256 tokens at K = 8; no completion ends early. Prints median time and peak memory of each, a line fitted
through time and completion tokens, and how much faster than its tokens a step grew anywhere: 1.00 is in proportion.
"""

import argparse
import json
import sys
from collections import defaultdict
from itertools import pairwise
from statistics import linear_regression, median
from typing import Any

from benchmarks.lockstep import Arm

SIZES = {"K": [(k, 64) for k in (2, 4, 8, 16)], "length": [(8, length) for length in (32, 64, 128, 256)]}


def print_series(name: str, sizes: list[tuple[int, int]], reports: dict[Any, list[dict[str, Any]]], rows: int) -> None:
    """Print the table of one series, and its fit."""
    print(f"\n| {name} | completion tokens | generate | step | peak memory |\n|---|---|---|---|---|")
    tokens = [rows * k * length for k, length in sizes]
    times = [median(report["total"] for report in reports[size]) for size in sizes]
    for size, num_tokens, seconds in zip(sizes, tokens, times, strict=True):
        generate = median(report["parts"]["generate"] for report in reports[size])
        peak = max(report["step_peak"] for report in reports[size])
        value = size[0] if name == "K" else size[1]
        print(f"| {value} | {num_tokens} | {generate:.2f} s | {seconds:.2f} s | {peak:.2f} GB |")
    slope, start = linear_regression(tokens, times)
    worst = max(abs(start + slope * n - t) / t for n, t in zip(tokens, times, strict=True))
    print(f"\nfit: {start:.2f} s + {1000 * slope:.2f} ms per completion token (farthest point {worst:.0%} off)")
    pairs = list(zip(tokens, times, strict=True))
    growth = max((t2 / t1) / (n2 / n1) for (n1, t1), (n2, t2) in pairwise(pairs))
    print(f"largest growth of time over growth of tokens: {growth:.2f}")


def main() -> None:
    """Take the steps, print both series."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3, help="steps of each size, after one warm-up")
    parser.add_argument("--prompts", type=int, default=2, help="prompts of a step")
    parser.add_argument("--optimizer", default="crpg", help="which update")
    parser.add_argument("--config", type=json.loads, default={}, help="more fields of CGPOConfig, as JSON")
    given = parser.parse_args()
    settings = {
        "optimizer": given.optimizer, "prompts": given.prompts, "chunk": 32, "full_length": True,
        "always_release": True,
        "config": given.config,
    }  # fmt: skip
    arm = Arm(given.optimizer, [sys.executable, "-m", "benchmarks.step_ours"], settings)
    reports: dict[tuple[int, int], list[dict[str, Any]]] = defaultdict(list)
    try:
        for number in range(1 + given.steps):
            for k, length in sorted({size for sizes in SIZES.values() for size in sizes}):
                report = arm.step(k=k, length=length)
                if number:
                    reports[k, length].append(report)
                print(f"  K={k} length={length}: {report['total']:.2f} s", file=sys.stderr, flush=True)
    finally:
        arm.close()
    for name, sizes in SIZES.items():
        print_series(name, sizes, reports, given.prompts)


if __name__ == "__main__":
    main()
