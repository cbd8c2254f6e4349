"""What a process that computes on a CPU has to be told before it begins: how threads wait, and where memory goes."""

import ctypes
import os
import sys

__all__ = ["MEMORY", "THREADS", "settle_in"]

MMAP_THRESHOLD = 2**30  # bytes; what is larger is given back to the system as soon as it is freed

THREADS = {"GOMP_SPINCOUNT": "1000"}
"""Of a process to be started that computes beside others. OpenMP's threads spin for long while they wait, and take the
cores from the process beside them; not to spin at all is slower still."""

MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(MMAP_THRESHOLD), "MALLOC_TRIM_THRESHOLD_": str(2**40)}
"""Of a process to be started that trains. A step frees gigabytes that the next one asks for: what glibc gives back in
between, page by page, is fetched and cleared anew. Other C libraries do not know these names."""


def settle_in() -> None:
    """Do the same in this process, before torch is loaded; what the environment says already stays."""
    os.environ.update({**THREADS, **os.environ})
    if sys.platform != "linux" or any(name in os.environ for name in (*MEMORY, "GLIBC_TUNABLES")):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    m_trim_threshold, m_mmap_threshold = -1, -3
    # The second alone would be harmful: either ends glibc's own adapting of the other.
    if mallopt is not None and mallopt(m_mmap_threshold, MMAP_THRESHOLD):
        mallopt(m_trim_threshold, -1)
