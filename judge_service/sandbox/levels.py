"""Which isolation works on this host: found by running a program that tries to get out.

bwrap: namespaces, an empty file system, a seccomp filter and hard limits per program. landlock: no namespaces; files
and network refused, one process per program. none: limits only, refused unless it is asked for by name and allowed.
"""

import logging
import os
import socket

from judge_service.sandbox.pool import Sandbox
from judge_service.sandbox.settings import Level, Limits, ProgramError, SandboxError, SandboxSettings

logger = logging.getLogger(__name__)

PROBE_S = 20.0
TRIES = 2
"""A machine that is busy while the service starts must not cost it the better level."""
WAY_OUT = "what a host or a container has to allow: docs/operations.md"
PROBE = """
import os, socket

def add(a, b):
    return a + b

def reads(path):
    try:
        with open(path, "rb") as file:
            file.read(1)
    except OSError:
        return False
    return True

def writes(path):
    try:
        with open(path, "wb"):
            return True
    except OSError:
        return False

def connects(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True

def signals(pid):
    if pid == os.getpid():
        return False  # its own number: the process that is meant has it in another namespace
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True
"""


async def open_sandbox(settings: SandboxSettings) -> Sandbox:
    """Return a sandbox at the best level whose self-test passes; raise `SandboxError` where none does."""
    levels: list[Level] = ["bwrap", "landlock"] if settings.level == "auto" else [settings.level]
    if levels == ["none"] and not settings.allow_none:
        raise SandboxError("level none isolates nothing and is refused; set allow_none to run programs all the same")
    problems: dict[str, str] = {}
    for level in [level for level in levels for _ in range(TRIES)]:
        sandbox = Sandbox(settings, level)
        works = False
        try:
            await self_test(sandbox)
            await sandbox.warm_up()
            works = True
        except SandboxError as error:
            problems[level] = f"{level}: {error}"
        finally:
            if not works:
                await sandbox.close()
        if works:
            if level != levels[0]:
                why = "; ".join([*problems.values(), WAY_OUT])
                logger.warning("the sandbox runs at level %s, for: %s", level, why)
            return sandbox
    raise SandboxError("; ".join([*problems.values(), WAY_OUT]))


async def self_test(sandbox: Sandbox) -> None:
    """Run a program that works and tries to get out; raise `SandboxError` where it fails or gets out."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        attempts = [
            ("runs a program", "add", [2, 3], 5),
            ("keeps host files out of reach", "reads", [os.path.abspath(__file__)], False),
            ("keeps system files out of reach", "reads", ["/etc/passwd"], False),
            ("keeps the host unchanged", "writes", ["/usr/lib/sandbox-probe"], False),
            ("keeps the network out of reach", "connects", [server.getsockname()[1]], False),
            ("keeps its parent out of reach", "signals", [os.getpid()], False),
        ]
        try:
            async with sandbox.session({"mode": "call", "source": PROBE}, Limits()) as program:
                await program.ask(None, Limits().start_s)
                for promise, function, arguments, answer in attempts[: 1 if sandbox.level == "none" else None]:
                    reply = await program.ask({"call": function, "args": arguments, "kwargs": {}}, PROBE_S)
                    _expect(reply.get("value", "nothing"), answer, f"level {sandbox.level} {promise}")
        except ProgramError as error:
            raise SandboxError(f"the self-test fails: {error}") from error


def _expect(found: object, answer: object, promise: str) -> None:
    if type(found) is not type(answer) or found != answer:
        raise SandboxError(f"the self-test fails: it is not so that {promise}")
