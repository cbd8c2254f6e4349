"""What a computing process is told about memory and threads, seen from inside such a process."""

import os
import platform
import subprocess
import sys

import pytest

from trainer.environment import MEMORY, THREADS

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")

# 1 GiB in pieces: freed, does it stay with the process? And a piece is no mapping of its own.
PROGRAM = """
import ctypes, os, resource
{settle}
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
pieces = [libc.malloc(64 << 20) for _ in range(4)]
for piece in pieces:
    ctypes.memset(piece, 1, 64 << 20)
full = resident()
for piece in reversed(pieces):
    libc.free(piece)
print(int((full - resident()) / 2**20), os.environ.get("GOMP_SPINCOUNT"))
"""
SETTLE = "from trainer.environment import settle_in; settle_in()"


def given_back(settle="", **environment):
    """Return the whole MiB that a process gives back of 256 freed, and its GOMP_SPINCOUNT.

    Rounded once, not each of two counts: a page more between them is no MiB.
    """
    plain = {name: value for name, value in os.environ.items() if name not in (*THREADS, *MEMORY, "GLIBC_TUNABLES")}
    code = PROGRAM.format(settle=settle)
    done = subprocess.run(
        [sys.executable, "-c", code], env={**plain, **environment}, capture_output=True, text=True, check=True
    )
    amount, spins = done.stdout.split()
    return int(amount), spins


def test_freed_memory_stays_with_a_process_that_computes():
    assert given_back()[0] > 200
    assert given_back(SETTLE) == (0, "1000")
    assert given_back(**THREADS, **MEMORY) == (0, "1000")


def test_what_the_environment_says_already_stays():
    amount, spins = given_back(SETTLE, GOMP_SPINCOUNT="7", MALLOC_TRIM_THRESHOLD_="1000000")
    assert amount > 200
    assert spins == "7"
