"""Judges the completions of a training run again, and tells which verdicts are others now."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.table import Table

from trainer.errors import ConfigError, DatasetError
from trainer.evaluation.columns import Question
from trainer.evaluation.journal import Judged
from trainer.evaluation.judge_list import NamedJudge, judges_of_row, labelled
from trainer.evaluation.table_files import Row, TableFile
from trainer.run_config import JudgeEntry, TaskEntry
from wire import JudgeItem, JudgeSpec, Message

__all__ = ["Change", "Changes", "Rescoring", "judges_of_run", "table_of_run"]

AS_JSON = ("prompt", "ground_truth", "metadata", "judges")


def judges_of_run(run: Path) -> list[NamedJudge]:
    """Return the judges that a run's config.json names; those of several tasks under `task/label`.

    Raises:
        ConfigError: there is no such file, or it names no judges.
    """
    path = run / "config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        tasks = [TaskEntry.model_validate(one) for one in content.get("tasks") or ()]
        entries = content["judges"]
        named = [JudgeEntry(name=one) if isinstance(one, str) else JudgeEntry.model_validate(one) for one in entries]
    except FileNotFoundError:
        raise ConfigError(f"there is no {path}; is {run} a run folder? Name its judges with --judges") from None
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise ConfigError(f"{path} does not name the run's judges ({error}); name them with --judges") from None
    return [
        *_named(named),
        *(NamedJudge(f"{task.name}/{label}", spec) for task in tasks for label, spec in _named(task.entries())),
    ]


def _named(entries: Sequence[JudgeEntry]) -> list[NamedJudge]:
    return labelled(JudgeSpec(name=entry.name, parameters=entry.parameters) for entry in entries)


def table_of_run(run: Path) -> TableFile:
    """Return the completions of a run.

    Raises:
        ConfigError: there are none.
    """
    folder = run / "completions"
    if not any(folder.glob("*.parquet")):
        raise ConfigError(f"there are no Parquet files in {folder}; was the run started with log_completions: false?")
    return TableFile(folder)


@dataclass
class Rescoring:
    """Makes the questions of a run's completions: the same judges, parameters and columns as then.

    Args:
        judges: the mixture of the run.
        left_out: labels met that are none of these: judges that ran in the training process.
    """

    judges: Sequence[NamedJudge]
    left_out: set[str] = field(default_factory=set)

    def question(self, number: int, row: Row) -> Question:
        """Return what is asked about a completion: whoever judged it then.

        Raises:
            DatasetError: the files were not written by a run, or by one that kept too little.
        """
        missing = [name for name in (*AS_JSON, "completion", "verdicts") if name not in row]
        if missing:
            raise DatasetError(f"the run's files have no column {missing[0]!r}: an older version wrote them")
        columns = {name: None if row[name] is None else json.loads(row[name]) for name in AS_JSON}
        own = columns["judges"]
        judges = self._judges_of(row.get("task"))
        known = {judge.label: judge for judge in (judges if own is None else judges_of_row(own, judges))}
        labels = list(labels_of(row))
        self.left_out.update(label for label in labels if label not in known)
        item = JudgeItem(
            id=str(number),
            prompt=[Message(role=message["role"], content=message["content"]) for message in columns["prompt"]],
            completion=row["completion"],
            ground_truth=columns["ground_truth"],
            metadata=columns["metadata"],
        )
        return Question(item, tuple(known[label] for label in labels if label in known))

    def _judges_of(self, task: str | None) -> list[NamedJudge]:
        """Return the judges of a task under the labels that they have in it; without such, those that have no task."""
        prefix = f"{task}/"
        own = [NamedJudge(label.removeprefix(prefix), s) for label, s in self.judges if label.startswith(prefix)]
        return own or [judge for judge in self.judges if "/" not in judge.label]


def labels_of(row: Row) -> dict[str, dict[str, Any]]:
    """Return the recorded verdicts of a completion by label; one that comes twice has a number behind it."""
    specs = [JudgeSpec(name=verdict["label"]) for verdict in row["verdicts"]]
    return {judge.label: verdict for judge, verdict in zip(labelled(specs), row["verdicts"], strict=True)}


@dataclass(frozen=True)
class Change:
    """A verdict that is another one now."""

    step: int
    row: int
    label: str
    before: dict[str, Any]
    now: dict[str, Any]


class Changes:
    """Compares recorded verdicts with new ones, judge by judge.

    Args:
        most_shown: how many changes are kept.
    """

    def __init__(self, most_shown: int = 10) -> None:
        self.most_shown = most_shown
        self.outcomes: dict[str, Counter[tuple[str, str]]] = {}
        self.num_other_scores: Counter[str] = Counter()
        self.versions: dict[str, tuple[set[str], set[str]]] = {}
        self.first: list[Change] = []

    def add(self, row: Row, judged: Judged) -> None:
        """Compare one completion."""
        recorded = labels_of(row)
        for label, verdict in judged.verdicts.items():
            before, now = recorded[label], verdict.model_dump()
            self.outcomes.setdefault(label, Counter())[before["outcome"], now["outcome"]] += 1
            versions = self.versions.setdefault(label, (set(), set()))
            versions[0].add(before["version"])
            versions[1].add(now["version"])
            if before["outcome"] == now["outcome"]:
                self.num_other_scores[label] += before["score"] != now["score"]
            elif len(self.first) < self.most_shown:
                self.first.append(Change(row["step"], row["row"], label, before, now))

    @property
    def num_changed(self) -> int:
        """Verdicts whose outcome is another one now."""
        return sum(n for pairs in self.outcomes.values() for (old, new), n in pairs.items() if old != new)

    def table(self) -> Table:
        """Return the changes by judge as a table; `score`: the same outcome with another score."""
        table = Table()
        table.add_column("judge", overflow="fold")
        for name in ("verdicts", "same", "changed", "score"):
            table.add_column(name, justify="right")
        table.add_column("changes")
        table.add_column("version")
        for label, pairs in self.outcomes.items():
            same = sum(n for (old, new), n in pairs.items() if old == new)
            changes = ", ".join(f"{old} -> {new} {n}" for (old, new), n in sorted(pairs.items()) if old != new)
            counts = [str(n) for n in (pairs.total(), same, pairs.total() - same, self.num_other_scores[label])]
            table.add_row(label, *counts, changes or "-", self._versions(label))
        return table

    def examples(self) -> Table:
        """Return the first changes with their reasons as a table."""
        table = Table()
        for name in ("step", "row", "judge", "before", "now"):
            table.add_column(name, overflow="fold")
        for change in self.first:
            states = [f"{v['outcome']}: {why(v)}" for v in (change.before, change.now)]
            table.add_row(str(change.step), str(change.row), change.label, *states)
        return table

    def _versions(self, label: str) -> str:
        before, now = self.versions[label]
        if before == now:
            return "the same"
        if len(before) == len(now) == 1:
            return f"{next(iter(before))} -> {next(iter(now))}"
        return f"{len(now - before)} of {len(now)} new"


def why(verdict: dict[str, Any]) -> str:
    """Return the reason of a verdict, or the error of an unknown one."""
    error = verdict["error"]
    return verdict["reason"] if error is None else f"{error['type']}, {error['detail']}"
