"""Asks a judge service, wherever it runs, about every hostile program, and ends with 1 where an answer is another one.

    python hostile_runs.py http://judge:8001 TOKEN_FILE

The one row that cannot be sent is the lone surrogate, which is no JSON text.
"""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hostile_programs import (
    BOMBS,
    LEAVES_A_TRACE,
    LOOKS_FOR_A_TRACE,
    LOOKS_FOR_ITS_TESTS,
    LOOKS_FOR_OTHERS,
    RIGHT,
    SATISFIED,
    SLOW_IMPORT,
    SOUGHT_TESTS,
    TESTS,
    TOO_LONG,
    TOO_MUCH,
    VIOLATED,
)

from wire import JudgeClient, JudgeItem
from wire.judge import JudgeSpec

PATIENT = (30.0, 20.0, 60.0)
SHORT = (5.0, 2.0, 10.0)
"""Seconds to load a program, for one case, and for everything."""
DEADLINE_S = 300.0
SLACK = 5
"""How many times its limit a program may take on a busy machine before that is called a failure."""


@dataclass(frozen=True)
class Row:
    """A program, the answer that it has to get, and what the reason has to say."""

    name: str
    program: str
    outcome: str
    says: str = ""
    limits: tuple[float, float, float] = PATIENT
    tests: tuple[str, ...] = TESTS

    def item(self) -> JudgeItem:
        parts = ("start_time_limit_s", "case_time_limit_s", "time_limit_s_total")
        parameters = dict(zip(parts, self.limits, strict=True)) | {"memory_mb": 512}
        judges = [JudgeSpec(name="python_tests", parameters=parameters)]
        metadata = {"tests": list(self.tests)}
        return JudgeItem(id=self.name, prompt="", completion=self.program, metadata=metadata, judges=judges)


def groups() -> Iterator[list[Row]]:
    """The rows, in requests of rows that are under way together."""
    yield [Row(name, program, "satisfied") for name, program in SATISFIED.items()]
    yield [
        Row(name, program, "violated", limits=SHORT)
        for name, program in VIOLATED.items()
        if "\ud800" not in program and name not in BOMBS
    ]
    yield [Row(name, program, "violated", "output limit") for name, program in TOO_MUCH.items()]
    yield [Row(name, program, "violated", "timeout", SHORT) for name, program in TOO_LONG.items()]
    yield [Row("looks for its tests", LOOKS_FOR_ITS_TESTS, "violated", "a wrong answer", (30, 60, 90), SOUGHT_TESTS)]
    yield [Row("a slow import", SLOW_IMPORT, "satisfied", limits=(30.0, 2.5, 60.0))]
    for name in BOMBS:
        others = [Row(f"{number} beside a {name}", RIGHT, "satisfied") for number in range(4)]
        yield [Row(name, VIOLATED[name], "violated", limits=SHORT), *others]
    together = (LEAVES_A_TRACE, LOOKS_FOR_OTHERS, LOOKS_FOR_OTHERS, LOOKS_FOR_A_TRACE)
    yield [Row(f"{number} at once", program, "satisfied") for number, program in enumerate(together)]
    yield [Row(f"{number} of a hundred afterwards", RIGHT, "satisfied") for number in range(100)]


def wrong_answers(client: JudgeClient, rows: list[Row]) -> list[str]:
    """A line for each row that got another answer than its own."""
    found = []
    for row, result in zip(rows, client.judge([row.item() for row in rows], deadline_s=DEADLINE_S), strict=True):
        (verdict,) = result.verdicts
        if verdict.outcome != row.outcome or row.says not in (verdict.reason or ""):
            why = verdict.error.detail if verdict.error else verdict.reason
            found.append(f"{row.name}: {row.outcome} {row.says} is right, the answer is {verdict.outcome}: {why}")
    return found


def slow_answers(client: JudgeClient) -> list[str]:
    """A line for each program without end that was answered long after its limit; says the worst of all."""
    found, worst = [], 0.0
    for name, program in TOO_LONG.items():
        limit = SHORT[0] if "import" in name else SHORT[1]
        started = time.monotonic()
        client.judge([Row(name, program, "violated", limits=SHORT).item()])
        over = time.monotonic() - started - limit
        worst = max(worst, over)
        if over > (SLACK - 1) * limit:
            found.append(f"{name}: answered {over:.2f} s after its limit of {limit:g} s")
    print(f"programs without end: answered at most {worst:.2f} s after their limit")
    return found


def main(url: str, token_file: str | None = None) -> int:
    token = Path(token_file).read_text(encoding="utf-8").split()[0] if token_file else None
    num_rows, num_wrong = 0, 0
    with JudgeClient(url, token=token, items_per_request=16, deadline_s=DEADLINE_S) as client:
        for rows in groups():
            wrong = wrong_answers(client, rows)
            print("\n".join([*wrong, f"{rows[0].name}, ...: {len(rows) - len(wrong)} of {len(rows)}"]), flush=True)
            num_rows, num_wrong = num_rows + len(rows), num_wrong + len(wrong)
        slow = slow_answers(client)
    print("\n".join([*slow, f"hostile programs: {num_rows - num_wrong} of {num_rows} got their answer"]))
    return int(bool(num_wrong or slow))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
