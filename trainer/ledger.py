"""The ledger of a run: that each question sent has come back as exactly one answer, and whose answer it was.

RUN/ledger.jsonl has one line per training step, and per batch of an evaluation, summed over all processes:

    {"step": 3, "kind": "train", "reward_models": {"reward model": ["tiny at revision 1f"]}, "tasks": {"default": {
        "sent": 16, "satisfied": 9, "violated": 6, "unknown": 1, "scored": 16, "unscored": 0, "judges": {
            "word_count": {"sent": 16, "satisfied": 9, "violated": 6, "unknown": 1, "versions": ["1+9f86d081"]}}}}}
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object

from trainer.config import CGPOConfig
from trainer.errors import LedgerError
from trainer.experience import Experience
from trainer.iteration import Iteration
from trainer.mixture import MixtureOfConstraintJudges
from trainer.reward import RewardModel
from trainer.versions import Versions, judge_key

__all__ = ["LEDGER", "Ledger"]

LEDGER = "ledger.jsonl"
OUTCOMES = ("satisfied", "violated", "unknown")
SCORES = ("scored", "unscored")


@dataclass
class _Account:
    """Counts by task, judge (empty: the mixture and the reward model) and what is counted; versions by who has them."""

    counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    versions: dict[str, set[str]] = field(default_factory=dict)
    labels: dict[tuple[str, str], set[str]] = field(default_factory=dict)

    def enter(self, task: str, mixture: MixtureOfConstraintJudges, experience: Experience, prefix: str) -> None:
        """Count what was sent, by the rows and the completions; and what came back, by the verdicts."""
        completions = experience.rollout.completions
        for row, texts, answers in zip(experience.rows, completions, experience.judged, strict=True):
            asked = mixture.judges_of(row)
            for judge in ["", *(label for label, _ in asked)]:
                self.counts[task, judge, "sent"] += len(texts)
            for answer in answers:
                self.counts[task, "", answer.judgement.outcome] += 1
                self.counts[task, "", SCORES[answer.score is None]] += 1
                for label, verdict in answer.judgement.verdicts:
                    self.counts[task, label, verdict.outcome] += 1
                for (label, own), (_, verdict) in zip(asked, answer.judgement.verdicts, strict=False):
                    self.versions.setdefault(f"{prefix}{judge_key(label, own)}", set()).add(verdict.version)
                    self.labels.setdefault((task, label), set()).add(verdict.version)

    def add(self, other: "_Account") -> None:
        """Add what another process counted."""
        self.counts.update(other.counts)
        for mine, theirs in ((self.versions, other.versions), (self.labels, other.labels)):
            for name, versions in theirs.items():
                mine.setdefault(name, set()).update(versions)

    def check(self) -> None:
        """Raise LedgerError where something sent has no answer, or more than one."""
        for task, judge in {(task, judge) for task, judge, _ in self.counts}:
            sent = self.counts[task, judge, "sent"]
            for whats in (OUTCOMES, SCORES) if not judge else (OUTCOMES,):
                counts = {what: self.counts[task, judge, what] for what in whats}
                if sum(counts.values()) != sent:
                    whose = f"the judge {judge}" if judge else "judges and reward model"
                    raise LedgerError(
                        f"the ledger does not balance: of {sent} completions of the task {task} sent to {whose}, "
                        f"{', '.join(f'{count} are {what}' for what, count in counts.items())}; nothing was learned "
                        "from them. Please report this"
                    )

    def line(self, tasks: Sequence[str]) -> dict[str, Any]:
        """Return the counts of each task, and of each of its judges."""

        def counted(task: str, judge: str, whats: Sequence[str]) -> dict[str, Any]:
            return {what: self.counts[task, judge, what] for what in ("sent", *whats)}

        lines = {}
        for task in tasks:
            judges = sorted({judge for name, judge, _ in self.counts if name == task and judge})
            versions = {judge: sorted(filter(None, self.labels.get((task, judge), ()))) for judge in judges}
            own = {judge: {**counted(task, judge, OUTCOMES), "versions": versions[judge]} for judge in judges}
            lines[task] = {**counted(task, "", (*OUTCOMES, *SCORES)), "judges": own}
        return lines


class Ledger:
    """Checks the balance of every step, writes it down, and notices when another version of a judge answers.

    Args:
        args: the run's configuration.
        versions: who has answered so far.
    """

    def __init__(self, args: CGPOConfig, versions: Versions) -> None:
        self._path = Path(args.output_dir) / LEDGER
        self._num_processes = args.world_size
        self._is_main = args.process_index == 0
        self._versions = versions

    def begin(self, judges: Mapping[str, str], models: Mapping[str, RewardModel]) -> bool:
        """Take note of who will answer, before anything is asked; return whether it is another one than before.

        Args:
            judges: their versions, as `MixtureOfConstraintJudges.check` returns them.
            models: the reward models, by the name of the task.

        Raises:
            VersionChange: another one than before, and that is refused.
        """
        return self._versions.meet({**{name: [one] for name, one in judges.items()}, **_reward_versions(models)})

    def enter(self, step: int, kind: str, iteration: Iteration) -> bool:
        """Write a step's line, and return whether another version than before has answered.

        All processes call it together, and end alike where it raises.

        Args:
            step: number of the training step; of an evaluation, of the last one before it.
            kind: `train`, or an evaluation's prefix.
            iteration: the step.

        Raises:
            LedgerError: an answer is missing, or there is one too many.
            VersionChange: another version than before has answered, and that is refused.
        """
        tasks = [share.task for share in iteration.shares]
        own = _Account(versions=_reward_versions({task.name: task.reward_model for task in tasks}))
        reward_models = list(own.versions)
        for task, experience in zip(tasks, iteration.experiences, strict=True):
            own.enter(task.name, task.mixture, experience, f"{task.name}/" if len(tasks) > 1 else "")
        account = _Account()
        for one in gather_object([own]) if self._num_processes > 1 else [own]:
            account.add(one)
        account.check()
        if self._is_main:
            named = {name: sorted(account.versions[name]) for name in reward_models}
            lines = account.line([task.name for task in tasks])
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, "kind": kind, "reward_models": named, "tasks": lines}) + "\n")
        return self._versions.meet(account.versions)


def _reward_versions(models: Mapping[str, RewardModel]) -> dict[str, set[str]]:
    """Return who has given scores since this was asked last, by reward model; those that several tasks share once.

    Args:
        models: by the name of the task.
    """
    tasks: dict[int, list[str]] = {}
    for task, model in models.items():
        tasks.setdefault(id(model), []).append(task)
    found = {}
    for names in tasks.values():
        versions = getattr(models[names[0]], "versions", set)  # a user's own need not have it
        found["reward model" if len(tasks) == 1 else f"reward model of {', '.join(names)}"] = versions()
    return found
