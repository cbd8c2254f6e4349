"""Rows for a model's forward pass: completions of one prompt behind one copy of it, in batches that fit a budget.

Suffixes beside those of `trainer.batch`:

    R   rows of one forward pass
    L   tokens of a row, padded on the right
    M   completion tokens whose log-probability is asked for
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.arrangement import Arrangement, arrange
from trainer.batch import Sequences

__all__ = ["PackedRows", "batches", "filling", "groups", "pack"]


@dataclass(frozen=True)
class PackedRows:
    """Token rows [prompt, completion, completion, ...] and where in them each completion token is predicted.

    A completion's last token is read by nobody, so it is in no row. `position_ids_RL` and `mask_R1LL` are None where
    every row has one completion: plain causal attention then never reaches the padding on the right. With an
    arrangement all of it is one row, one after the other, and the arrangement stands in the mask's place.

    source_M: flat index into R * L of the hidden state that predicts the token.
    target_M: the token.
    sequence_M: its row in the `Sequences` that were packed.
    """

    input_ids_RL: Tensor
    position_ids_RL: Tensor | None
    mask_R1LL: Tensor | None
    source_M: Tensor
    target_M: Tensor
    sequence_M: Tensor
    arrangement: Arrangement | None = None


def groups(sequences: Sequences, members: Sequence[int], pair_cost: float | None, most_tokens: int) -> list[list[int]]:
    """Return which sequences share a row, longest rows first: those of one prompt, where that costs less.

    A row of L tokens costs L + pair_cost * L**2: attention with a mask computes every pair of a row, also those of
    different completions. Each prompt's completions are split evenly into as many rows as cost the least.

    Args:
        sequences: N prompts with their completions.
        members: which of them are wanted.
        pair_cost: of one query-key pair, in units of what a token costs elsewhere; None: no row is shared.
        most_tokens: of a shared row.
    """
    lengths = sequences.completion_mask_NT.sum(dim=1).tolist()
    prompt_lengths = sequences.prompt_mask_NP.sum(dim=1).tolist()
    rows: list[list[int]] = []
    if pair_cost is None:
        rows = [[n] for n in members]
    else:
        for same in _same_prompt(sequences, members):
            longest_first = sorted(same, key=lambda n: -lengths[n])
            rows.extend(_split(longest_first, lengths, prompt_lengths, pair_cost, most_tokens))
    return sorted(rows, key=lambda row: -_row_tokens(row, lengths, prompt_lengths))


def batches(
    sequences: Sequences, rows: Sequence[Sequence[int]], most_tokens: int, is_padded: bool = True
) -> Iterator[list[list[int]]]:
    """Yield rows in batches of at most `most_tokens` tokens, padding included; a longer row is a batch by itself.

    Args:
        sequences: what the rows refer to.
        rows: as `groups` returns them, longest first.
        most_tokens: of one batch.
        is_padded: whether a batch's rows are as long as the longest of them.
    """
    lengths = sequences.completion_mask_NT.sum(dim=1).tolist()
    prompt_lengths = sequences.prompt_mask_NP.sum(dim=1).tolist()
    batch: list[list[int]] = []
    width = num_tokens = 0
    for row in rows:
        own = _row_tokens(row, lengths, prompt_lengths)
        if batch and num_tokens + (width if is_padded else own) > most_tokens:
            yield batch
            batch = []
        width, num_tokens = (width, num_tokens) if batch else (own, 0)
        num_tokens += width if is_padded else own
        batch.append(list(row))
    if batch:
        yield batch


def filling(sequences: Sequences, rows: Sequence[Sequence[int]], most_tokens: int) -> list[list[int]]:
    """Return the first batch of rows, and with it as much of the next row as there is room for.

    The row's prompt then goes forward and backward in two batches, which is worth three forward passes over it; each
    completion that is taken saves one over itself.

    Args:
        sequences: what the rows refer to.
        rows: as `groups` returns them, longest first.
        most_tokens: of the batch; nothing is padded.
    """
    lengths = sequences.completion_mask_NT.sum(dim=1).tolist()
    prompt_lengths = sequences.prompt_mask_NP.sum(dim=1).tolist()
    batch = next(batches(sequences, rows, most_tokens, is_padded=False), [])
    if len(batch) == len(rows):
        return batch
    following = rows[len(batch)]
    prompt = prompt_lengths[following[0]]
    room = most_tokens - prompt - sum(_row_tokens(row, lengths, prompt_lengths) for row in batch)
    taken: list[int] = []
    num_taken = 0
    for n in following:
        if num_taken + max(lengths[n] - 1, 0) <= room:
            taken.append(n)
            num_taken += max(lengths[n] - 1, 0)
    return [*batch, taken] if num_taken > 3 * prompt else batch


def pack(sequences: Sequences, rows: Sequence[Sequence[int]], is_arranged: bool = False) -> PackedRows:
    """Return the rows as tensors.

    A prompt's tokens are seen by all completions of its row, a completion's by itself alone; positions begin anew
    behind the prompt. So each completion is computed as if it stood in a row of its own.

    Args:
        sequences: what the rows refer to.
        rows: as `groups` returns them.
        is_arranged: whether to lay them one behind the other, for attention by an arrangement.
    """
    prompts = [ids[mask].tolist() for ids, mask in zip(sequences.prompt_ids_NP, sequences.prompt_mask_NP, strict=True)]
    lengths = sequences.completion_mask_NT.sum(dim=1).tolist()
    completions = [ids[:n] for ids, n in zip(sequences.completion_ids_NT.tolist(), lengths, strict=True)]
    built = [_row(prompts[row[0]], [completions[n] for n in row]) for row in rows]
    device = sequences.prompt_ids_NP.device
    arrangement = None
    if is_arranged:
        seen = [[max(lengths[n] - 1, 0) for n in row] for row in rows]
        arrangement = arrange([(len(prompts[row[0]]), own) for row, own in zip(rows, seen, strict=True)], device)
        built = [_joined(built)]
    width = max(len(one.ids) for one in built)
    source: list[int] = []
    for r, one in enumerate(built):
        source.extend(r * width + at for at in one.source)
    is_shared = not is_arranged and any(len(row) > 1 for row in rows)
    return PackedRows(
        _padded([one.ids for one in built], width, 0).to(device),
        _padded([one.positions for one in built], width, 0).to(device) if is_shared or is_arranged else None,
        _mask(_padded([one.parts for one in built], width, -1).to(device)) if is_shared else None,
        torch.tensor(source, dtype=torch.long, device=device),
        torch.tensor([t for row in rows for n in row for t in completions[n]], dtype=torch.long, device=device),
        torch.tensor([n for row in rows for n in row for _ in completions[n]], dtype=torch.long, device=device),
        arrangement,
    )


@dataclass(frozen=True)
class _Row:
    ids: list[int]
    positions: list[int]
    parts: list[int]  # 0 the prompt, then 1, 2, ... for the completions
    source: list[int]


def _row(prompt: list[int], completions: list[list[int]]) -> _Row:
    row = _Row(list(prompt), list(range(len(prompt))), [0] * len(prompt), [])
    for part, completion in enumerate(completions, start=1):
        begin, seen = len(row.ids), completion[:-1]
        if completion:
            row.source.append(len(prompt) - 1)
        row.source.extend(range(begin, begin + len(seen)))
        row.ids.extend(seen)
        row.positions.extend(range(len(prompt), len(prompt) + len(seen)))
        row.parts.extend([part] * len(seen))
    return row


def _joined(rows: list[_Row]) -> _Row:
    whole = _Row([], [], [], [])
    for row in rows:
        whole.source.extend(len(whole.ids) + at for at in row.source)
        whole.ids.extend(row.ids)
        whole.positions.extend(row.positions)
        whole.parts.extend(row.parts)
    return whole


def _padded(rows: list[list[int]], width: int, fill: int) -> Tensor:
    return torch.tensor([row + [fill] * (width - len(row)) for row in rows])


def _mask(parts_RL: Tensor) -> Tensor:
    """Return which key each query sees: earlier ones of the prompt and of its own completion. Padding sees the same."""
    length = parts_RL.shape[1]
    is_earlier_LL = torch.ones(length, length, dtype=torch.bool, device=parts_RL.device).tril()
    is_prompt_R1L = (parts_RL == 0)[:, None, :]
    is_same_RLL = parts_RL[:, :, None] == parts_RL[:, None, :]
    return ((is_prompt_R1L | is_same_RLL) & is_earlier_LL)[:, None]


def _row_tokens(row: Sequence[int], lengths: Sequence[int], prompt_lengths: Sequence[int]) -> int:
    return prompt_lengths[row[0]] + sum(max(lengths[n] - 1, 0) for n in row)


def _same_prompt(sequences: Sequences, members: Sequence[int]) -> list[list[int]]:
    found: dict[tuple[int, ...], list[int]] = {}
    for n in members:
        found.setdefault(tuple(sequences.prompt_ids_NP[n][sequences.prompt_mask_NP[n]].tolist()), []).append(n)
    return list(found.values())


def _split(
    members: list[int], lengths: Sequence[int], prompt_lengths: Sequence[int], pair_cost: float, most_tokens: int
) -> list[list[int]]:
    """Return the cheapest even split of one prompt's sequences into rows."""
    best, least = [[n] for n in members], float("inf")
    for num_rows in range(len(members), 0, -1):
        rows = [members[first::num_rows] for first in range(num_rows)]
        tokens = [_row_tokens(row, lengths, prompt_lengths) for row in rows]
        if num_rows < len(members) and max(tokens) > most_tokens:
            break
        cost = sum(n + pair_cost * n * n for n in tokens)
        if cost < least:
            best, least = rows, cost
    return best
