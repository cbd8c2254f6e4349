"""The rows behind a name in a run's configuration: a file, a folder, a packaged set or a hub id."""

from importlib import resources
from pathlib import Path
from typing import Any

from trainer.errors import DatasetError

__all__ = ["PACKAGED", "load_rows", "packaged_path"]

PACKAGED = tuple(
    f"{name}_{part}"
    for name in ("quickstart", "instruction_following", "short_answers", "general_chat")
    for part in ("train", "eval")
)


def packaged_path(name: str) -> Path:
    """Return where a packaged set lies."""
    return Path(str(resources.files("trainer") / "data" / f"{name}.jsonl"))


def load_rows(source: str) -> Any:
    """Return the rows of a dataset: a file, a folder, a packaged set or a hub id.

    Raises:
        DatasetError: there is no such file, or it cannot be read.
    """
    import datasets  # takes a second to import, and only runs need it

    if source in PACKAGED:
        return _read_jsonl(packaged_path(source))
    path = Path(source)
    try:
        if path.is_dir():
            return datasets.load_from_disk(source)
        if path.suffix in (".jsonl", ".json"):
            return _read_jsonl(path)
        if path.suffix == ".parquet":
            return datasets.Dataset.from_parquet(source)
        return datasets.load_dataset(source, split="train")
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DatasetError(
            f"cannot read the dataset {source!r} ({error}); give a .jsonl or .parquet file, a folder saved by "
            f"datasets, a hub id, or one of {', '.join(PACKAGED)}"
        ) from error


def _read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a file as they are: a table would give every row the columns of all others."""
    import orjson

    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if line.strip():
            try:
                row = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise DatasetError(f"{path} line {number} is not JSON: {error}") from error
            if not isinstance(row, dict):
                raise DatasetError(f"{path} line {number} is not an object but {type(row).__name__}")
            rows.append(row)
    return rows
