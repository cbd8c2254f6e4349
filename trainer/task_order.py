"""Which rows a step has where there are several tasks: each task's batch size of them, in every step."""

import random
from collections.abc import Callable, Iterator, Mapping

from torch.utils.data import Sampler

__all__ = ["TaskOrder"]


class TaskOrder(Sampler[int]):
    """Indices into the tasks' datasets laid end to end, step after step.

    Each task goes through its rows in one random order after another, without regard to where the others are; a pure
    function of seed, task and step, so a resumed run sees the same rows. The rows of a step are dealt so that each part
    of it, a micro-batch or a process, has nearly its share of every task.

    An epoch is as many steps as the task with the most batches needs to show all its rows once.

    Args:
        num_rows: rows of each task, by its name, in the order in which they lie end to end.
        batch_sizes: of each task, prompts of one step over all processes.
        seed: of the orders.
        epoch: says which epoch begins, whenever one does.

    >>> list(TaskOrder({"a": 2, "b": 1}, {"a": 2, "b": 1}, seed=0, epoch=lambda: 0))
    [0, 2, 1]
    """

    def __init__(
        self, num_rows: Mapping[str, int], batch_sizes: Mapping[str, int], seed: int, epoch: Callable[[], int]
    ) -> None:
        self.num_rows = num_rows
        self.batch_sizes = batch_sizes
        self.seed = seed
        self.epoch = epoch
        self.steps_per_epoch = max(-(-rows // batch_sizes[task]) for task, rows in num_rows.items())
        self._shuffled: dict[str, tuple[int, list[int]]] = {}

    def __len__(self) -> int:
        return self.steps_per_epoch * sum(self.batch_sizes.values())

    def __iter__(self) -> Iterator[int]:
        first = self.epoch() * self.steps_per_epoch
        for step in range(first, first + self.steps_per_epoch):
            yield from self.rows_of(step)

    def rows_of(self, step: int) -> list[int]:
        """Return the indices of one step's rows, the first step being 0."""
        dealt: list[tuple[float, int]] = []
        offset = 0
        for task, num_rows in self.num_rows.items():
            size = self.batch_sizes[task]
            for i in range(size):
                place = step * size + i
                row = self._order(task, place // num_rows)[place % num_rows]
                dealt.append(((i + 0.5) / size, offset + row))
            offset += num_rows
        dealt.sort(key=lambda one: one[0])  # stable: equal places stay in the order of the tasks
        return [index for _, index in dealt]

    def _order(self, task: str, number: int) -> list[int]:
        """Return the order in which a task's rows come the `number`-th time."""
        known, order = self._shuffled.get(task, (-1, []))
        if known != number:
            rows = range(self.num_rows[task])
            order = random.Random(f"{self.seed}/{task}/{number}").sample(rows, len(rows))
            self._shuffled[task] = number, order
        return order
