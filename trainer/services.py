"""Services as processes of their own, on free loopback ports, for as long as somebody needs them."""

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trainer.environment import THREADS
from trainer.errors import ConfigError
from wire import JudgeClient, ServiceError

__all__ = ["Starting", "judge_service", "quickstart_services", "reward_service"]

STOP_TIMEOUT_S = 10.0
REFUSALS = "refusals"
"""Name under which the classifier of refusals is served."""


class Starting:
    """A service on its way up.

    Args:
        module: The service's package.
        process: The service.
        log: Where it writes.
        timeout_s: Longest wait, from now on.
    """

    def __init__(self, module: str, process: subprocess.Popen[bytes], log: Path, timeout_s: float) -> None:
        self._module, self._process, self._log = module, process, log
        self._timeout_s, self._deadline = timeout_s, time.monotonic() + timeout_s

    def address(self) -> str:
        """Return its URL as soon as it listens, which is before it is ready.

        Raises:
            ConfigError: it ended, or said nothing within its time.
        """
        return self._wait(lambda url: "ok")

    def ready(self) -> str:
        """Return its URL as soon as its /readyz says ok.

        Raises:
            ConfigError: it ended, or was not ready within its time.
        """
        return self._wait(_state)

    def _wait(self, state_of: Callable[[str], str]) -> str:
        state = "it has not said where it listens"
        while time.monotonic() < self._deadline:
            written = self._log.read_text(encoding="utf-8", errors="replace")
            if self._process.poll() is not None:
                status = self._process.returncode
                raise ConfigError(f"{self._module} ended with status {status} while starting:\n{written[-2000:]}")
            found = re.search(r"https?://127\.0\.0\.1:\d+", written)
            if found:
                state = state_of(found.group())
                if state == "ok":
                    return found.group()
            time.sleep(0.2)
        raise ConfigError(f"{self._module} was not ready after {self._timeout_s:.0f} s: {state}")


@contextmanager
def judge_service(start_timeout_s: float = 120.0, arguments: Sequence[str] = ()) -> Iterator[str]:
    """Start a judge service, yield its URL once it is ready, and stop it at the end, whatever happens."""
    with _service("judge_service", arguments, start_timeout_s) as starting:
        yield starting.ready()


@contextmanager
def reward_service(model: Path | str, start_timeout_s: float = 300.0) -> Iterator[str]:
    """Start a reward service for one model, yield its URL once it is ready, and stop it at the end."""
    with _service("reward_service", ("--model", str(model)), start_timeout_s) as starting:
        yield starting.ready()


@contextmanager
def quickstart_services(scorer: Path | str, refusals: Path) -> Iterator[tuple[Starting, Starting]]:
    """Start what the packaged prompts need, yield judge service and reward service on their way up, stop both.

    Args:
        scorer: The reward model.
        refusals: A classifier, served beside it by the same process, which the judge `no_refusal` asks.
    """
    models = ("--model", str(scorer), "--model", f"{REFUSALS}={refusals}")
    with _service("reward_service", models, start_timeout_s=300.0) as rewards:
        settings = {"JUDGE_SERVICE_LLM": json.dumps(_asks_refusals(rewards.address()))}
        # The packaged prompts need no code judge, so a machine without a sandbox trains all the same.
        with _service("judge_service", ("--no-require-sandbox",), 120.0, settings) as judges:
            yield judges, rewards


def _asks_refusals(url: str) -> dict[str, Any]:
    """Return the judge service's settings of LLM judges; where services want a token, it is the trainer's."""
    token = {"key_env": "CGPO_TOKEN", "key_file": os.environ.get("CGPO_TOKEN_FILE")}
    upstream = {"url": url, "backend": "classify", "model": REFUSALS, **token}
    # It starts beside the judge service, so it is asked again soon.
    return {"upstreams": {REFUSALS: upstream}, "judges": {"no_refusal": REFUSALS}, "probe_interval_s": 1.0}


@contextmanager
def _service(
    module: str, arguments: Sequence[str], start_timeout_s: float, settings: Mapping[str, str] | None = None
) -> Iterator[Starting]:
    with tempfile.NamedTemporaryFile("w+", prefix=f"{module}-", suffix=".log") as log:
        # A session of its own: Ctrl-C reaches this process, which then stops the service in order.
        process = subprocess.Popen(
            [sys.executable, "-m", module, "--host", "127.0.0.1", "--port", "0", *arguments],
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**THREADS, **os.environ, **(settings or {})},
            start_new_session=True,
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )
        try:
            yield Starting(module, process, Path(log.name), start_timeout_s)
        finally:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _end_with_parent() -> None:
    """Ask the kernel to end this process when its parent dies, even by SIGKILL."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def _state(url: str) -> str:
    """Return `ok`, or why the service behind a URL is not ready."""
    with JudgeClient(url) as client:
        try:
            health = client.ready()
        except ServiceError as error:
            return str(error)
    return "ok" if health.status == "ok" else "; ".join(health.reasons)
