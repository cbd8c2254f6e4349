"""Baselines: the dataset's assistant turn, or one sample of the reference model, made once and kept."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from trainer.dataset import Row
from trainer.mixture import Judgement, Sample
from trainer.rollout import Completion
from trainer.scoring import Judged, Scoring
from wire import Verdict

__all__ = ["Baselines"]


class Baselines:
    """The baseline of each row with its verdicts and its score, both asked for once.

    Source: section 4.2.1, a_bar. An answer that is not complete (a judge or the reward model failed) is not kept, so
    it is asked for again the next time its row comes. What is kept goes into checkpoints: asked for a second time, in
    another batch, a score differs in its last bits, and a resumed run would leave the path of the uninterrupted one.
    """

    def __init__(self, scoring: Scoring) -> None:
        self._scoring = scoring
        self._sampled: dict[str, Completion] = {}
        self._judged: dict[str, Judged] = {}

    def missing(self, rows: Sequence[Row]) -> list[Row]:
        """Return the rows that have no baseline yet."""
        return [row for row in rows if row.baseline is None and _key(row) not in self._sampled]

    def keep(self, rows: Sequence[Row], completions: Sequence[Completion]) -> None:
        """Keep samples of the reference model as the baselines of these rows."""
        self._sampled.update((_key(row), completion) for row, completion in zip(rows, completions, strict=True))

    def of(self, row: Row) -> Completion:
        """Return the baseline of a row."""
        return row.baseline if row.baseline is not None else self._sampled[_key(row)]

    def submit(self, rows: Sequence[Row]) -> Callable[[], list[Judged]]:
        """Send the baselines not judged yet, and return a function that waits for those of all these rows."""
        keys = [_key(row) for row in rows]
        new = {key: row for key, row in zip(keys, rows, strict=True) if key not in self._judged}
        samples = [Sample(row, self.of(row).text) for row in new.values()]
        wait = self._scoring.submit(samples) if new else list

        def judged() -> list[Judged]:
            answers = dict(zip(new, self._scoring.settle(samples, wait()), strict=True))
            self._judged.update((key, answer) for key, answer in answers.items() if answer.is_known)
            return [self._judged.get(key) or answers[key] for key in keys]

        return judged

    def forget_answers(self) -> None:
        """Have every baseline judged and scored anew: by another reward model, scores have another scale."""
        self._judged.clear()

    def save(self, path: Path) -> None:
        """Write everything kept to a JSON file."""
        content = {
            "sampled": {key: [one.text, one.token_ids, one.has_eos] for key, one in self._sampled.items()},
            "judged": {
                key: [one.score, [(label, verdict.model_dump()) for label, verdict in one.judgement.verdicts]]
                for key, one in self._judged.items()
            },
        }
        path.write_text(json.dumps(content), encoding="utf-8")

    def load(self, path: Path) -> None:
        """Take over what a file of `save` holds; rows that have changed since then do not find theirs in it."""
        content = json.loads(path.read_text(encoding="utf-8"))
        for key, (text, token_ids, has_eos) in content["sampled"].items():
            self._sampled[key] = Completion(text, tuple(token_ids), has_eos)
        for key, (score, verdicts) in content["judged"].items():
            judgement = Judgement(tuple((label, Verdict.model_validate(verdict)) for label, verdict in verdicts))
            self._judged[key] = Judged(judgement, score)


def _key(row: Row) -> str:
    """Return what makes a row the same one: its place, and all that its baseline and its verdicts come from."""
    baseline = None if row.baseline is None else row.baseline.text
    columns = [row.ground_truth, dict(row.metadata), row.judges]
    content = [row.dataset, row.index, row.messages, baseline, *columns]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
