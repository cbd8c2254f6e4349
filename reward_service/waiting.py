"""Encoded rows that wait for a forward pass: cut by a token budget, the oldest served first.

They are sorted by length, so that little is padding, and by their tokens too: those of one prompt stand together there,
and share it where that costs less.
"""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence
from operator import attrgetter

from reward_service.ticket import Row, Ticket

KEY = attrgetter("key")
# Where few rows wait, neighbours differ in length: a batch is cut where padding gets dearer than one more pass, whose
# fixed cost is put at a part of the token budget, and also takes a share of the batch worth the trouble.
PASS_SHARE = 16
LARGEST_PADDING = 0.2
# A batch of rows that share their beginning is taken where it costs so much less a token than one of equal lengths.
WORTH_SHARING = 0.95
SHORTEST_SHARED = 16


TOKENS = attrgetter("ids", "arrival")


class Waiting:
    """The rows of one model that wait. Not safe for threads: the batcher holds its lock around every call.

    Args:
        batch_tokens: of one batch, padding among them; what all its rows begin with counts once.
    """

    def __init__(self, batch_tokens: int) -> None:
        self.num_kept: int | None = None
        """tokens that every row begins with and that cost nothing; None where rows share no beginning at all"""
        self._batch_tokens = batch_tokens
        self._rows: list[Row] = []
        self._by_tokens: list[Row] = []
        self._arrivals: deque[Row] = deque()
        self._num_tokens = 0

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def fills_a_batch(self) -> bool:
        """Whether there is enough for a whole batch already."""
        return self._num_tokens >= self._batch_tokens

    @property
    def since(self) -> int:
        """The arrival of the row that has waited longest; there must be one."""
        return self._oldest().arrival

    def add(self, rows: Sequence[Row]) -> None:
        """Put rows in."""
        for row in rows:
            insort(self._rows, row, key=KEY)
            if self.num_kept is not None:
                insort(self._by_tokens, row, key=TOKENS)
        self._arrivals.extend(rows)
        self._num_tokens += sum(row.length for row in rows)

    def take(self) -> list[Row]:
        """Take out the batch that the oldest row belongs to; nothing where nothing waits.

        Sorted by length and cut from the shortest on, the rows make the batches of a static length-sorted pass: taking
        one of them out leaves the cuts of the others where they were.
        """
        if not self._rows:
            return []
        place = bisect_left(self._rows, self._oldest().key, key=KEY)
        start, end = 0, self._batch_end(0)
        while end <= place:
            start, end = end, self._batch_end(end)
        batch = self._rows[start:end]
        if self._by_tokens and (kin := self._kin(batch)):
            batch = kin
            for row in kin:
                del self._rows[bisect_left(self._rows, row.key, key=KEY)]
        else:
            del self._rows[start:end]
        self._let_go(batch)
        return batch

    def drop(self, ticket: Ticket) -> None:
        """Take out the rows of a request that nobody waits for any more."""
        dropped = [row for row in self._rows if row.ticket is ticket]
        if dropped:
            self._rows = [row for row in self._rows if row.ticket is not ticket]
            self._let_go(dropped)

    def clear(self) -> list[Row]:
        """Take out everything."""
        rows, self._rows, self._by_tokens = self._rows, [], []
        self._let_go(rows)
        return rows

    def _oldest(self) -> Row:
        while self._arrivals[0].is_taken:
            self._arrivals.popleft()
        return self._arrivals[0]

    def _let_go(self, rows: Sequence[Row]) -> None:
        for row in rows:
            row.is_taken = True
            if self._by_tokens:
                del self._by_tokens[bisect_left(self._by_tokens, TOKENS(row), key=TOKENS)]
        self._num_tokens -= sum(row.length for row in rows)
        if not self._rows:
            self._arrivals.clear()

    def _kin(self, batch: Sequence[Row]) -> list[Row]:
        """Return the rows that share most with the oldest one, nothing where they cost no less than this batch."""
        oldest, rows = self._oldest(), self._by_tokens
        begin = end = bisect_left(rows, TOKENS(oldest), key=TOKENS)
        shared, longest, num_tokens = oldest.length, oldest.length, oldest.length
        ids = [row.ids for row in batch]
        cost = self._cost(len(batch), max(map(len, ids)), _num_common(min(ids), max(ids)))
        best: tuple[float, int, int] = (WORTH_SHARING * cost / sum(map(len, ids)), 0, 0)
        while True:
            before = _num_common(rows[begin - 1].ids, oldest.ids) if begin else 0
            behind = _num_common(rows[end + 1].ids, oldest.ids) if end + 1 < len(rows) else 0
            begin, end, added = (begin - 1, end, begin - 1) if before > behind else (begin, end + 1, end + 1)
            shared = min(shared, max(before, behind))
            if shared < SHORTEST_SHARED:
                break
            longest, num_tokens = max(longest, rows[added].length), num_tokens + rows[added].length
            num_rows = end - begin + 1
            if num_rows * (longest - shared) > self._batch_tokens:
                break
            best = min(best, (self._cost(num_rows, longest, shared) / num_tokens, begin, end + 1))
        return rows[best[1] : best[2]]

    def _cost(self, num_rows: int, longest: int, shared: int) -> float:
        """Return what a batch costs, in tokens: all rows behind what is kept, or behind what they share, that once."""
        one_pass, kept = self._batch_tokens / PASS_SHARE, self.num_kept or 0
        apart = one_pass + num_rows * (longest - kept)
        return apart if num_rows == 1 else min(apart, 2 * one_pass + shared + num_rows * (longest - shared))

    def _batch_end(self, start: int) -> int:
        """Return where the batch that begins at `start` ends: at the token budget, or where padding gets too much."""
        num_tokens = self._rows[start].length
        for place in range(start + 1, len(self._rows)):
            length = self._rows[place].length
            padded = (place - start + 1) * length
            num_tokens += length
            largest_padding = max(LARGEST_PADDING * padded, self._batch_tokens / PASS_SHARE)
            if padded > self._batch_tokens or padded - num_tokens > largest_padding:
                return place
        return len(self._rows)


def _num_common(one: list[int], other: list[int]) -> int:
    """Return with how many tokens both begin, by comparing pieces, each half as long as the one before.

    >>> _num_common([1, 2, 3, 4, 5], [1, 2, 3, 9])
    3
    """
    begin, end = 0, min(len(one), len(other))
    while begin < end:
        middle = (begin + end + 1) // 2
        if one[begin:middle] == other[begin:middle]:
            begin = middle
        else:
            end = middle - 1
    return begin
