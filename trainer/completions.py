"""The Parquet files of a run: every completion with what it was asked, its verdicts, scores and log-ratios."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["COMPLETIONS_SCHEMA", "VERDICTS", "write_completions", "write_iteration"]

# Named, not inferred: a step without any error would otherwise have other types than the next, and no tool could read
# the files of a run as one table.
_ERROR = pa.struct([("type", pa.string()), ("detail", pa.string()), ("retryable", pa.bool_())])
_VERDICT = pa.struct(
    [
        *((name, pa.string()) for name in ("label", "judge", "outcome")),
        ("score", pa.float64()),
        *((name, pa.string()) for name in ("reason", "version")),
        ("error", _ERROR),
    ]
)
VERDICTS = pa.list_(_VERDICT)
COMPLETIONS_SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("task", pa.string()),
        ("row", pa.int64()),
        *((name, pa.string()) for name in ("prompt", "completion", "outcome", "ground_truth", "metadata", "judges")),
        *((name, pa.float64()) for name in ("score", "reward", "logratio")),
        ("num_tokens", pa.int64()),
        ("has_eos", pa.bool_()),
        ("verdicts", VERDICTS),
    ]
)


def write_completions(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write completions with their verdicts, scores and log-ratios as one Parquet file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".part")
    pq.write_table(pa.Table.from_pylist(rows, schema=COMPLETIONS_SCHEMA), draft)
    draft.replace(path)


def write_iteration(output_dir: Path, kind: str, step: int, process: int, rows: list[dict[str, Any]]) -> None:
    """Write one process's completions of a training step, or of one batch of an evaluation, under a name of its own.

    Args:
        output_dir: the run's.
        kind: `train`, or an evaluation's prefix.
        step: the training step; of an evaluation the last one before it.
        process: number of this process.
        rows: the records.
    """
    folder = output_dir / "completions"
    name = f"{kind}-{step:06d}-{process}"
    if kind != "train":
        name += f"-{len(list(folder.glob(f'{name}*')))}"
    write_completions(folder / f"{name}.parquet", rows)
