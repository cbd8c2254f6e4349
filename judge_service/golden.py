"""Examples with known verdicts, judged at the start: a service that gets them wrong says that it is not ready."""

import asyncio
from collections.abc import Callable

from judge_service.runner import Runner
from wire.judge import JudgeItem, JudgeRequest

TIME_LIMIT_S = 30.0
RETRY_S = 5.0

EXAMPLES: tuple[tuple[str, str, str | None, str], ...] = (
    ("math_answer", r"Half of it is $\boxed{\frac{1}{2}}$.", "0.5", "satisfied"),
    ("math_answer", r"Half of it is $\boxed{\frac{1}{3}}$.", "0.5", "violated"),
    ("word_count", "two words", None, "satisfied"),
    ("word_count", "", None, "violated"),
)
"""Judge, completion, ground truth, outcome."""


async def wrong_verdicts(runner: Runner) -> list[str]:
    """Return a line for each golden example whose verdict is not the known one."""
    items = [
        JudgeItem(id=str(number), prompt="", completion=completion, ground_truth=ground_truth, judges=[judge])
        for number, (judge, completion, ground_truth, _) in enumerate(EXAMPLES)
    ]
    deadline = asyncio.get_running_loop().time() + TIME_LIMIT_S
    results = await runner.run(JudgeRequest(items=items), deadline)
    return [
        f"golden example {result.id} of judge '{judge}' is {result.verdicts[0].outcome}, not {outcome}"
        for result, (judge, _, _, outcome) in zip(results, EXAMPLES, strict=True)
        if result.verdicts[0].outcome != outcome
    ]


async def keep_right(wrong: list[str], runner: Runner, problems: Callable[[], list[str]]) -> None:
    """Judge the examples again while something is wrong, for nobody sends a service anything that says so.

    A machine that was too busy at the start is not too busy for ever, and judging an example has the worker processes
    started anew.

    Args:
        wrong: lines of the last time; replaced.
        runner: judges them.
        problems: why items cannot be judged in a process now.
    """
    while True:
        await asyncio.sleep(RETRY_S)
        if wrong or problems():
            wrong[:] = await wrong_verdicts(runner)
