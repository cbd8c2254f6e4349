"""Worker processes for judges that can hang: one that runs over its time is killed and replaced.

A thread of the pool owns each worker: it sends a chunk of items, waits for the answer to each within the judge's time
limit, and kills the worker that does not answer. A mother process (`worker.py`) forks the replacement, with the judges
already loaded. Whose fault decides: an item that burns its time or brings its worker down twice is `violated`; a worker
that never got the processor, or cannot be had at all, is our fault and makes the item `unknown`.

Why not pebble's ProcessPool: one item a dispatch, and with a start method that is safe beside threads its workers
import the program's main module again.
"""

import contextlib
import contextvars
import logging
import os
import pickle
import queue
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from multiprocessing.connection import Connection

from judge_service.judge import Judge, JudgeItem, Verdict
from judge_service.worker import CRASH_MARK, READY, to_plain
from service.problem import crash_site

LOG = logging.getLogger("judge_service.workers")
START_LIMIT_S = 120.0
FORK_LIMIT_S = 10.0
ITEMS_PER_WORKER = 5000
"""A worker that has answered this many items is replaced: parsers keep tables that only grow."""
STARVED_FACTOR = 4
"""Times its limit that a worker may wait for a processor that others keep busy."""

Deliver = Callable[[int, Verdict], None]


class WorkersUnavailable(RuntimeError):
    """No worker process can be had; the message says why."""


class _Job:
    """A chunk of items for one judge, and where its verdicts go."""

    def __init__(self, judge: Judge, items: Sequence[tuple[int, JudgeItem]], deadline: float, deliver: Deliver) -> None:
        self.judge = judge
        self.judge_bytes = b""
        self.pending = deque(items)
        self.deadline = deadline
        self.deliver = deliver
        self.retried = False
        self.done: Future[None] = Future()
        self._context = contextvars.copy_context()

    def answer(self, verdict: Verdict) -> None:
        index, _ = self.pending.popleft()
        self.retried = False
        self.deliver(index, verdict)

    def log(self, message: str, *values: object) -> None:
        """Log an error with the id of the request that the job is of."""
        self._context.run(LOG.error, message, *values)

    def refuse(self, detail: str) -> None:
        while self.pending:
            self.answer(self.judge.unknown("internal", detail))

    def message(self) -> bytes:
        items = [to_plain(item) for _, item in self.pending]
        return pickle.dumps((self.judge_bytes, items, self.deadline), protocol=5)


class _Worker:
    """One worker process, seen from the pool."""

    def __init__(self, pid: int, connection: Connection) -> None:
        self.pid = pid
        self.connection = connection
        self.answered = 0
        # Linux numbers a process's CPU clock by its pid (clock_getcpuclockid(3)): one cheap call tells whether a
        # silent worker was busy, or was never given the processor.
        self._cpu_clock = (~pid << 3) | 2

    def cpu_s(self) -> float:
        try:
            return time.clock_gettime(self._cpu_clock)
        except OSError:
            return 0.0

    def wait(self, limit: float) -> float | None:
        """Wait for an answer; return None when it is there, the processor time used, seconds, when time is over.

        Time is over at `limit`, but a worker that had less than half of that on the processor gets some more.
        """
        started, cpu_before = time.monotonic(), self.cpu_s()
        patience = limit
        while not self.connection.poll(patience):
            used = self.cpu_s() - cpu_before
            if used >= limit / 2 or time.monotonic() - started >= STARVED_FACTOR * limit:
                return used
            patience = limit - used
        return None

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.connection.close()


class WorkerPool:
    """Judges items in worker processes.

    Args:
        num_workers: worker processes.
        memory_bytes: address space of one worker, bytes.
        judges: judge classes to load and warm up before the first fork.
    """

    def __init__(self, num_workers: int, memory_bytes: int, judges: Sequence[type[Judge]]) -> None:
        self.num_workers = num_workers
        self.memory_bytes = memory_bytes
        self._modules = sorted({judge.__module__ for judge in judges})
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._mother: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._busy: dict[int, _Worker] = {}
        self._threads: list[threading.Thread] = []
        self._problem = "the worker processes are not started"
        self._stopping = False

    def start(self) -> None:
        """Start the mother process and the pool's threads. A failure shows in `problems()` and is tried again."""
        self._stopping = False
        with self._lock, contextlib.suppress(WorkersUnavailable):
            self._start_mother()
        for number in range(self.num_workers):
            thread = threading.Thread(target=self._serve, name=f"worker-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """End every process and thread of the pool; items still in work stay without an answer."""
        self._stopping = True
        for _ in self._threads:
            self._queue.put(None)
        for worker in list(self._busy.values()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGKILL)
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        with self._lock:
            self._end_mother()
        self._problem = "the worker processes are stopped"

    def problems(self) -> list[str]:
        """Return why items cannot be judged in a process now; empty when they can."""
        if self._problem:
            return [self._problem]
        ended = sum(not thread.is_alive() for thread in self._threads)
        return [f"{ended} of {self.num_workers} worker threads ended; the log says why"] if ended else []

    def submit(
        self, judge: Judge, items: Sequence[tuple[int, JudgeItem]], deadline: float, deliver: Deliver
    ) -> "Future[None]":
        """Have a chunk judged; `deliver(index, verdict)` is called from a thread of the pool for each item.

        The future is done once no more will come. Items whose turn comes after `deadline` (`time.monotonic`) are
        dropped without a verdict.
        """
        job = _Job(judge, items, deadline, deliver)
        try:
            job.judge_bytes = pickle.dumps(judge)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            LOG.error("judge %s cannot go to a worker process: %s", judge.name(), crash_site(error))
            job.refuse("the judge cannot go to a worker process; the service's log says why")
            job.done.set_result(None)
        else:
            self._queue.put(job)
        return job.done

    def _serve(self) -> None:
        worker: _Worker | None = None
        while (job := self._queue.get()) is not None:
            if not job.done.set_running_or_notify_cancel():
                continue  # nobody waits for it any more
            try:
                worker = self._finish(job, worker)
            finally:
                job.done.set_result(None)
        if worker is not None:
            worker.connection.close()

    def _finish(self, job: _Job, worker: _Worker | None) -> _Worker | None:
        """Judge all of a job, with as many workers as it takes; return the worker that is left."""
        while job.pending and time.monotonic() < job.deadline and not self._stopping:
            if worker is not None and worker.answered >= ITEMS_PER_WORKER:
                worker.connection.close()
                worker = None
            try:
                worker = worker or self._fork()
            except WorkersUnavailable as error:
                job.refuse(f"no worker process: {error}; ask again")
                return None
            if not self._run(job, worker):
                worker = None
        return worker

    def _run(self, job: _Job, worker: _Worker) -> bool:
        """Send a job to a worker and take in its answers; return whether the worker can go on."""
        self._busy[worker.pid] = worker
        limit = job.judge.time_limit_s
        try:
            worker.connection.send_bytes(job.message())
            while job.pending:
                overrun = worker.wait(limit)
                if overrun is not None:
                    worker.kill()
                    if not self._stopping:
                        job.answer(_over_time(job.judge, limit, overrun))
                    return False
                crash, _, verdict = worker.connection.recv_bytes().partition(CRASH_MARK)
                worker.answered += 1
                if crash:
                    job.log("judge %s crashed: %s", job.judge.name(), crash.decode("utf-8", "replace"))
                job.answer(Verdict.model_validate_json(verdict))
                if crash:
                    worker.connection.close()
                    return False
            return True
        except (EOFError, OSError):
            # The worker is gone. A second worker tells whether this item does it, or whether it was an accident.
            worker.kill()
            if job.retried and job.pending and not self._stopping and time.monotonic() < job.deadline:
                job.answer(job.judge.violated("brought its worker process down"))
            else:
                job.retried = True
            return False
        finally:
            self._busy.pop(worker.pid, None)

    def _fork(self) -> _Worker:
        with self._lock:
            for attempt in (1, 2):
                if self._control is None:
                    self._start_mother()
                try:
                    return self._fork_from(self._control)
                except OSError as error:
                    self._end_mother()
                    self._problem = f"forking a worker failed ({error})"
                    if attempt == 2:
                        raise WorkersUnavailable(self._problem) from None
        raise AssertionError("unreachable")

    def _fork_from(self, control: socket.socket | None) -> _Worker:
        assert control is not None
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                socket.send_fds(control, [b"F"], [theirs.fileno()])
            reply = control.recv(4)
            if len(reply) < 4:
                raise ConnectionResetError("the mother process is gone")
        except OSError:
            ours.close()
            raise
        return _Worker(struct.unpack("i", reply)[0], Connection(ours.detach()))

    def _start_mother(self) -> None:
        ours, theirs = socket.socketpair()
        program = "import sys; sys.path[:] = {path!r}; from judge_service.worker import main; main({arguments})"
        arguments = f"{theirs.fileno()}, {self._modules!r}, {self.memory_bytes}"
        try:
            with theirs:
                self._mother = subprocess.Popen(
                    [sys.executable, "-c", program.format(path=sys.path, arguments=arguments)],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    env=_environment(),
                )
            ours.settimeout(START_LIMIT_S)
            if ours.recv(1) != READY:
                raise ConnectionResetError("it ended while loading the judges")
        except OSError as error:
            ours.close()
            self._end_mother()
            self._problem = f"the worker processes cannot start ({error})"
            LOG.error("%s", self._problem)
            raise WorkersUnavailable(self._problem) from None
        ours.settimeout(FORK_LIMIT_S)
        self._control = ours
        self._problem = ""

    def _end_mother(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._mother is not None:
            self._mother.kill()  # it holds no state; its workers go with it
            self._mother.wait()
            self._mother = None


def _over_time(judge: Judge, limit: float, cpu_s: float) -> Verdict:
    if cpu_s < limit / 2:
        detail = f"the machine was too busy to judge this within {STARVED_FACTOR * limit:g} s; ask again"
        return judge.unknown("timeout", detail)
    return judge.violated(f"timeout: not judged within {limit:g} s")


def _environment() -> dict[str, str]:
    """Return the environment without our secrets, and with what makes a worker repeatable and single-threaded."""
    kept = {name: value for name, value in os.environ.items() if "TOKEN" not in name}
    return {**kept, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
