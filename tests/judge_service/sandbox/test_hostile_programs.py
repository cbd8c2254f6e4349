"""Every program of hostile_programs.py gets its answer from the sandbox."""

import asyncio
import contextlib
import gc
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
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
    TOO_LONG,
    TOO_MUCH,
    VIOLATED,
)

from judge_service.sandbox import Limits

PATIENT = Limits(start_s=30, case_s=20, total_s=60, memory_bytes=512 << 20)
"""For what must be satisfied, however busy the machine is."""


@pytest.mark.parametrize("name", SATISFIED)
def test_a_program_that_answers_right_is_satisfied_whatever_else_it_tried(bench, name):
    report = bench.run(SATISFIED[name], limits=PATIENT)
    assert report.failures == []
    assert report.passed == report.total == 2


def test_a_slow_import_is_not_charged_to_the_tests_limit(bench):
    assert bench.run(SLOW_IMPORT, limits=Limits(start_s=30, case_s=2.5)).passed == 2


@pytest.mark.parametrize("name", VIOLATED)
def test_a_program_that_does_not_answer_right_is_violated(bench, name):
    report = bench.run(VIOLATED[name])
    assert report.passed < report.total
    assert report.failures
    assert not any(ord(letter) > 126 for failure in report.failures for letter in failure)


def test_a_program_that_looks_for_its_tests_finds_nothing(bench):
    report = bench.run(
        LOOKS_FOR_ITS_TESTS,
        SOUGHT_TESTS,
        limits=Limits(case_s=60, total_s=90),
    )
    assert report.passed == 0
    assert report.failures[0].endswith("a wrong answer")


@pytest.mark.parametrize("name", TOO_LONG)
def test_a_program_that_does_not_end_is_violated_soon_after_its_limit(bench, name):
    start = time.monotonic()
    report = bench.run(TOO_LONG[name])
    limit = bench.limits.start_s if "import" in name else bench.limits.case_s
    assert time.monotonic() - start < 5 * (limit + 0.5)
    assert report.passed == 0
    assert report.failures[0].endswith("timeout")


@pytest.mark.parametrize("name", TOO_MUCH)
def test_a_program_that_writes_without_end_is_violated_for_its_output(bench, name):
    report = bench.run(TOO_MUCH[name], limits=PATIENT)
    assert report.passed == 0
    assert report.failures[0].endswith("output limit")


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_leaves_the_verdicts_of_others_unchanged(bench, name):
    async def together():
        bomb = bench.report(VIOLATED[name])
        others = [bench.report(RIGHT, limits=PATIENT) for _ in range(4)]
        return await asyncio.gather(bomb, *others)

    bomb, *others = bench.runner.run(together())
    assert bomb.passed < 2
    assert [other.passed for other in others] == [2] * 4


def test_two_programs_at_once_see_nothing_of_each_other(bench):
    async def together():
        programs = (LEAVES_A_TRACE, LOOKS_FOR_OTHERS, LOOKS_FOR_OTHERS)
        return await asyncio.gather(*(bench.report(program, limits=PATIENT) for program in programs))

    assert [report.passed for report in bench.runner.run(together())] == [2, 2, 2]


def test_a_program_finds_nothing_that_the_one_before_it_left(bench):
    programs = (LEAVES_A_TRACE, LOOKS_FOR_A_TRACE, LEAVES_A_TRACE, LOOKS_FOR_A_TRACE)
    assert [bench.run(program, limits=PATIENT).passed for program in programs] == [2, 2, 2, 2]


def test_after_all_of_it_a_hundred_correct_programs_pass(bench):
    async def together():
        return await asyncio.gather(*(bench.report(RIGHT, limits=PATIENT) for _ in range(100)))

    assert all(report.passed == 2 for report in bench.runner.run(together()))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_every_row_holds_for_an_ordinary_user_too(tmp_path):
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    interpreters = (sys.executable, shutil.which(version), f"/usr/bin/{version}", f"/usr/local/bin/{version}")
    interpreter = next((path for path in interpreters if path and os.path.exists(path) and public(path)), None)
    if interpreter is None:
        pytest.skip("no interpreter that an ordinary user may run")
    root = Path(__file__).parents[3]
    packages = [path for path in sys.path if path.endswith("-packages")]
    if not all(public(path) for path in [str(root), *packages]):
        pytest.skip("an ordinary user may not read this repository")
    script = "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))"
    result = subprocess.run(
        [
            interpreter,
            "-B",
            "-c",
            script,
            "-x",
            "-k",
            "bwrap",
            "-p",
            "no:hypothesispytest",
            f"--rootdir={root}",
            __file__,
        ],
        user=64321,
        group=64321,
        extra_groups=[],
        cwd=root,
        env={"PATH": os.defpath, "HOME": "/tmp", "PYTHONPATH": os.pathsep.join([str(root), *packages])},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]


def public(path: str) -> bool:
    real = os.path.realpath(path)
    while real != "/":
        with contextlib.suppress(OSError):
            if os.stat(real).st_mode & 0o005 != 0o005:
                return False
        real = os.path.dirname(real)
    return True


def test_a_program_holds_no_descriptor_but_its_streams_and_its_channel(bench):
    """The sandbox's own control socket in a program's hands could say that it has ended, or take the next program."""
    program = """
import os
held = []
for fd in range(1000):
    try:
        os.fstat(fd)
        held.append(fd)
    except OSError:
        pass
def f(x):
    return held
"""
    assert bench.run(program, limits=PATIENT, tests=("assert f(0) == [0, 1, 2, 3]",)).passed == 1


def test_no_forged_message_reaches_the_one_who_starts_programs(bench):
    """Not on a descriptor that it found open: what its session takes for its own messages are its own."""
    unhandled = []
    loop = bench.runner.get_loop()
    loop.set_exception_handler(lambda _, context: unhandled.append(context))
    try:
        for _ in range(3):
            assert bench.run(VIOLATED["forges answers"]).passed == 0
        assert bench.run(RIGHT, limits=PATIENT).passed == 2
        gc.collect()  # a task's exception that nobody asked for is told when the task goes
    finally:
        loop.set_exception_handler(None)
    assert unhandled == []
