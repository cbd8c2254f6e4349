"""Trainers in processes of their own that take one step at a time, in turns: what the step benchmarks share.

A worker (`step_ours.py`, `step_peer.py`) builds a trainer, adds a `StepGate`, and trains; before each optimizer step it
waits for a line of JSON on its standard input, and after it writes one. `Arm` is the other end. As the arms of a
comparison take turns step by step, whatever else the machine does meets all of them alike. This module needs
transformers and psutil only besides, so that the peer's interpreter can import it.
"""

import ctypes
import gc
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import psutil

ROOT = Path(__file__).parent.parent
QUIET = {"PYTHONWARNINGS": "ignore", "TQDM_DISABLE": "1"}

PROMPTS = (
    "Write a short story about a lighthouse keeper who finds an old map.",
    "Explain to a child, in a few paragraphs, why the sky is blue and why it turns red in the evening.",
    "Describe a day in the life of a baker in a small town, from the early morning to the evening.",
    "Write a letter to a friend who moved to another country, and tell what happened at home since then.",
    "What are the advantages and disadvantages of living in a large city? Give examples for each.",
    "Tell the history of the bicycle and how it changed the way people travel.",
)


def peak_gb() -> float:
    """Return the largest resident memory of this process, GB; Linux counts from the last `reset_peak` on."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def reset_peak() -> None:
    """Begin anew with the peak of resident memory, where the kernel can (Linux)."""
    if Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")


def step_peak_gb() -> float:
    """Return the largest resident memory since `reset_peak`, GB; since the start where there is no such figure."""
    status = Path("/proc/self/status")
    if not status.exists():
        return peak_gb()
    return int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024 / 1e9


def release_memory(always: bool) -> None:
    """Give free memory back to the system where it is short, so that the other arms have it while they work.

    To get it again costs the next step a second, so that a step is slower than it is anywhere else.
    """
    if not always and psutil.virtual_memory().percent < 75:
        return
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def gated(
    trainer: Any,
    timers: Mapping[str, float] | None = None,
    change: Callable[[dict[str, Any]], None] = lambda settings: None,
    always_release: bool = False,
) -> None:
    """Make a `transformers.Trainer` take its steps when told, and report each.

    Args:
        trainer: the trainer, with `logging_steps=1`.
        timers: seconds of a step's parts, filled by the caller while a step runs; without it those that the trainer
            logs as `time/<part>_s`.
        change: called with what the other end wants to be different from this step on.
        always_release: whether each step begins without memory that the one before has freed: its peak is its own.
    """
    from transformers import PrinterCallback, TrainerCallback

    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print goes to standard error

    class StepGate(TrainerCallback):
        peak = 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            line = sys.stdin.readline()
            if not line:
                os._exit(0)
            change(json.loads(line))
            self.peak = max(self.peak, peak_gb())
            reset_peak()
            self.cpu, self.started = time.process_time(), time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.taken = {"total": time.perf_counter() - self.started, "cpu": time.process_time() - self.cpu}

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
            logs = logs or {}
            if "loss" not in logs:
                return
            parts = {n[5:-2]: v for n, v in logs.items() if n.startswith("time/")} if timers is None else dict(timers)
            length = float(logs.get("completion/length", logs.get("completions/mean_length", 0)))
            self.peak = max(self.peak, peak_gb())
            line = {**self.taken, "parts": parts, "length": length, "step_peak": step_peak_gb(), "peak": self.peak}
            release_memory(always_release)
            answers.write(json.dumps(line) + "\n")

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(StepGate())
    answers.write('"ready"\n')


class Arm:
    """One side of a comparison: a worker process.

    Args:
        name: as the tables call it.
        command: interpreter and arguments.
        settings: what the worker is to do, passed to it as JSON.
        folder: the checkout whose packages the worker imports.
        environment: what it has to have in its environment, as far as the caller's does not say otherwise; by default
            what `cgpo train` gives itself.
    """

    def __init__(
        self, name: str, command: Sequence[str], settings: Mapping[str, Any], folder: Path = ROOT,
        environment: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        # Not at the top: a worker imports this file with the packages of another checkout, which may lack it.
        from trainer.environment import MEMORY, THREADS

        if not folder.is_dir():
            raise SystemExit(f"{name}: there is no checkout at {folder}; make one with git worktree add")
        if shutil.which(command[0]) is None:
            raise SystemExit(f"{name}: there is no interpreter {command[0]}; name one that has what this arm needs")
        self.name = name
        self.steps: list[dict[str, Any]] = []
        self.process = subprocess.Popen(
            [*command, json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env={
                **QUIET,
                **({**THREADS, **MEMORY} if environment is None else environment),
                **os.environ,
                "PYTHONPATH": f"{folder}:{ROOT}",
            },
        )
        self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with status {self.process.wait()}; its messages are above")
        return json.loads(line)

    def step(self, keep: bool = True, **changed: Any) -> dict[str, Any]:
        """Have the worker take one step, its settings changed where some are given, and return what it reports."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(changed) + "\n")
        self.process.stdin.flush()
        report: dict[str, Any] = self._answer()
        if keep:
            self.steps.append(report)
        return report

    def median(self, part: str = "total") -> float:
        """Return the median over the kept steps of a time: total, or the name of a part, seconds."""
        return median(step["total"] if part == "total" else step["parts"].get(part, 0.0) for step in self.steps)

    @property
    def update_s(self) -> float:
        """What of a step is none of the named parts, seconds: the update."""
        return median(step["total"] - sum(step["parts"].values()) for step in self.steps)

    @property
    def peak_gb(self) -> float:
        """Largest resident memory of the worker, GB."""
        return max(step["peak"] for step in self.steps)

    @property
    def step_peak_gb(self) -> float:
        """Largest resident memory within a kept step, GB."""
        return max(step["step_peak"] for step in self.steps)

    def close(self) -> None:
        """End the worker."""
        self.process.kill()
        self.process.wait()


def in_turns(arms: Sequence[Arm], steps: int, warmup: int = 1) -> None:
    """Have every arm take its steps, one after the other, round by round."""
    for number in range(warmup + steps):
        for arm in arms:
            report = arm.step(keep=number >= warmup)
            kind = "warm-up" if number < warmup else f"step {number - warmup + 1}"
            print(
                f"  {kind:8} {arm.name:24} {report['total']:7.2f} s, CPU {report['cpu']:6.1f} s",
                file=sys.stderr,
                flush=True,
            )
