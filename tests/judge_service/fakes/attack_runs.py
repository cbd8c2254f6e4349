"""Runs completions past a judge at the desk of the LLM judges, with the guards and without."""

import asyncio
import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple
from unittest import mock

import httpx
from prometheus_client import CollectorRegistry

from judge_service import guards
from judge_service.judge import Judge, JudgeItem, Verdict
from judge_service.llm import classify
from judge_service.llm.desk import Desk, Spent
from judge_service.llm.settings import LlmSettings
from judge_service.registry import Registry
from wire.judge import JudgeSpec

LIMIT_S = 500.0


class _Task(NamedTuple):
    slot: int
    judge: Judge
    item: JudgeItem


def verdicts(
    upstream: dict[str, Any],
    judge: str,
    parameters: dict[str, Any],
    rows: Sequence[tuple[str, str]],
    transport: httpx.AsyncBaseTransport | None = None,
) -> list[Verdict]:
    """Return a judge's verdict about each prompt and completion, from an upstream and without cache."""
    settings = LlmSettings(upstreams={"one": upstream}, default="one", cache_verdicts=0)  # type: ignore[dict-item]

    async def ask() -> list[Verdict]:
        desk = Desk(settings, CollectorRegistry(), transport)
        made = Registry(bind=desk.bind).make(JudgeSpec(name=judge, parameters=parameters))
        items = [JudgeItem(id=str(n), prompt=prompt, completion=text) for n, (prompt, text) in enumerate(rows)]
        given: dict[int, Verdict] = {}
        await desk.start()
        try:
            tasks = [_Task(n, made, item) for n, item in enumerate(items)]
            await desk.answer(tasks, given.__setitem__, time.monotonic() + LIMIT_S, Spent())
        finally:
            await desk.stop()
        return [given[n] for n in range(len(items))]

    return asyncio.run(ask())


@contextlib.contextmanager
def unguarded() -> Iterator[None]:
    """Take the guards away: the text as it is, then the question. Opposite questions are still asked."""

    def state(item: JudgeItem, nonce: str = "") -> str:
        return f"Prompt: {guards.prompt_text(item.prompt)}\nCompletion: {item.completion}"

    def wrap(item: JudgeItem, instruction: str, nonce: str | None = None) -> str:
        return f"{state(item)}\n\nQuestion: {instruction}"

    with (
        mock.patch.object(guards, "refuse_without_asking", return_value=None),
        mock.patch.object(guards, "as_text", lambda text: text),
        mock.patch.object(classify, "readings", lambda text: [text, text]),
        mock.patch.object(guards, "state", state),
        mock.patch.object(guards, "question", lambda instruction, nonce: instruction),
        mock.patch.object(guards, "wrap", wrap),
    ):
        yield
