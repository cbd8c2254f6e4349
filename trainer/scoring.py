"""Verdicts and scores of samples: asked for while other work goes on, asked again where they are unknown."""

import logging
import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from trainer.errors import JudgeOutage
from trainer.mixture import Judgement, MixtureOfConstraintJudges, Sample
from trainer.reward import RewardModel
from wire.reward import ScoreError

__all__ = ["Judged", "Scoring"]

logger = logging.getLogger(__name__)

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0


@dataclass(frozen=True)
class Judged:
    """What judges and reward model said of one sample.

    `score` is None where the reward model gave none; `score_error` then says why, if anything does.
    """

    judgement: Judgement
    score: float | None
    score_error: ScoreError | None = None

    @property
    def is_known(self) -> bool:
        """Whether nothing that matters is missing."""
        return self.judgement.outcome != "unknown" and self.score is not None


class Scoring:
    """A mixture of judges and a reward model, asked together.

    Args:
        mixture: the judges.
        reward_model: gives the scores.
        deadline_s: longest wait for one batch, seconds.
        max_unknown_fraction: with a larger share unknown, `settle` asks again.
        outage_timeout_s: how long `settle` keeps asking, seconds.
        tasks: names of the tasks that are asked about, where there are several.
    """

    def __init__(
        self,
        mixture: MixtureOfConstraintJudges,
        reward_model: RewardModel,
        deadline_s: float,
        max_unknown_fraction: float,
        outage_timeout_s: float,
        tasks: Collection[str] = ("",),
    ) -> None:
        self.mixture = mixture
        self.reward_model = reward_model
        self.deadline_s = deadline_s
        self.max_unknown_fraction = max_unknown_fraction
        self.outage_timeout_s = outage_timeout_s
        self._tasks = tasks
        self._without_answers: set[str] = set()

    def submit(self, samples: Sequence[Sample]) -> Callable[[], list[Judged]]:
        """Send samples to judges and reward model, and return a function that waits for both."""
        judgements = self.mixture.submit(samples, self.deadline_s)
        scores = self.reward_model.submit(samples, self.deadline_s)
        return lambda: [_judged(j, s) for j, s in zip(judgements(), scores(), strict=True)]

    def not_ready(self, samples: Sequence[Sample]) -> list[str]:
        """Return why the services that these samples need cannot answer, by their /readyz; empty where they can."""
        rows = [sample.row for sample in samples]
        of_scores = getattr(self.reward_model, "not_ready", lambda rows: [])  # a user's own need not have it
        return [*self.mixture.not_ready(rows), *of_scores(rows)]

    def settle(self, samples: Sequence[Sample], judged: list[Judged]) -> list[Judged]:
        """Return the answers, those unknown ones asked again while there are too many that may yet be answered.

        Each task by itself: one that gets no answers for `outage_timeout_s` leaves the others alone, and is not waited
        for again until it gets them.

        Raises:
            JudgeOutage: no task has enough answers after `outage_timeout_s`.
        """
        places: dict[str, list[int]] = {}
        for i, sample in enumerate(samples):
            places.setdefault(sample.row.task, []).append(i)
        settled = list(judged)
        for task, mine in places.items():
            timeout_s = 0.0 if task in self._without_answers else self.outage_timeout_s
            own = [judged[i] for i in mine]
            try:
                self._settle([samples[i] for i in mine], own, timeout_s)
                self._without_answers.discard(task)
            except JudgeOutage as outage:
                self._without_answers.add(task)
                if len(self._without_answers) >= len(self._tasks):
                    raise
                logger.warning("the task %s goes without update, the others go on: %s", task, outage)
            for i, one in zip(mine, own, strict=True):
                settled[i] = one
        return settled

    def _settle(self, samples: Sequence[Sample], judged: list[Judged], timeout_s: float) -> None:
        """Put into `judged` what is answered when asked again, once the services asked say that they are ready.

        Raises:
            JudgeOutage: after `timeout_s` there is still too much unknown.
        """
        started, pause = time.monotonic(), FIRST_PAUSE_S
        while True:
            unknown = [i for i, one in enumerate(judged) if not one.is_known]
            if len(unknown) <= self.max_unknown_fraction * len(judged):
                return
            again = [i for i in unknown if self._may_be_answered(judged[i])]
            if not again:
                return
            waited = time.monotonic() - started
            what = f"{len(unknown)} of {len(judged)} samples are unknown ({_causes(judged)})"
            if waited + pause > timeout_s:
                raise JudgeOutage(
                    f"{what} after {waited:.0f} s; see the services' /readyz, then resume from the last checkpoint"
                )
            logger.warning("%s; asking again in %.0f s", what, pause)
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)
            asked = [samples[i] for i in again]
            reasons = self.not_ready(asked)
            if reasons:
                logger.warning("not ready yet: %s", "; ".join(reasons))
                continue
            answers = self.submit(asked)()
            for i, answer in zip(again, answers, strict=True):
                judged[i] = answer

    def _may_be_answered(self, judged: Judged) -> bool:
        """Return whether asking again can help: something is missing, and nothing says that it always will be."""
        unknown = [v.error for _, v in judged.judgement.verdicts if v.outcome == "unknown"]
        if judged.judgement.outcome == "unknown" and not all(error and error.retryable for error in unknown):
            return False
        return judged.score is not None or judged.score_error is None or judged.score_error.retryable

    def close(self) -> None:
        """Close the connections."""
        self.mixture.close()
        self.reward_model.close()


def _judged(judgement: Judgement, score: float | ScoreError | None) -> Judged:
    if score is None or isinstance(score, ScoreError):
        return Judged(judgement, None, score)
    if math.isfinite(score):
        return Judged(judgement, float(score))
    detail = "the reward model's output is not a finite number"
    return Judged(judgement, None, ScoreError(type="not_finite", detail=detail, retryable=False))


def _causes(judged: Sequence[Judged]) -> str:
    causes = {
        f"{label}: {verdict.error.type}, {verdict.error.detail}"
        for one in judged
        for label, verdict in one.judgement.verdicts
        if verdict.error is not None
    }
    for one in judged:
        if one.score_error is not None:
            causes.add(f"reward model: {one.score_error.type}, {one.score_error.detail}")
        elif one.score is None:
            causes.add("reward model: no score")
    listed = sorted(causes)
    return "; ".join(listed[:3]) + ("; ..." if len(listed) > 3 else "")
