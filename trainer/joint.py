"""The judges and the reward models of several tasks, asked together: a request carries samples of any of them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from trainer.config import CGPOConfig
from trainer.dataset import Row
from trainer.mixture import Judgement, MixtureOfConstraintJudges, Sample
from trainer.reward import RewardModel, Scores
from trainer.scoring import Scoring
from trainer.task import TrainingTask

__all__ = ["JointMixture", "JointRewardModel", "joint_scoring"]


class JointMixture(MixtureOfConstraintJudges):
    """Every task's mixture behind one set of connections; a sample is judged by its own task's alone.

    Args:
        mixtures: by the name of the task.
    """

    def __init__(self, mixtures: Mapping[str, MixtureOfConstraintJudges]) -> None:
        super().__init__(())
        self.mixtures = mixtures
        self.judges = {f"{task}/{label}": judge for task, m in mixtures.items() for label, judge in m.judges.items()}

    def check(self, rows: Iterable[Row] = ()) -> dict[str, str]:
        """Have every mixture check the rows of its task, and return the versions, the task's name before each key.

        Raises:
            CGPOError: as a mixture by itself.
        """
        listed = list(rows)
        return {
            f"{task}/{name}": version
            for task, mixture in self.mixtures.items()
            for name, version in mixture.check([row for row in listed if row.task == task]).items()
        }

    def judges_of(self, row: Row) -> list[tuple[str, Mapping[str, Any]]]:
        """Return label and parameters of each judge that applies to a row, the task's name before the label."""
        return [(f"{row.task}/{label}", own) for label, own in self.mixtures[row.task].judges_of(row)]

    def submit(self, samples: Sequence[Sample], deadline_s: float) -> Callable[[], list[Judgement]]:
        """Send samples of any tasks, and return a function that waits for the judgements, labels as in their mixture.

        Args:
            samples: completions with their rows.
            deadline_s: longest wait for the judges, seconds; what is missing then is unknown.
        """
        wait = super().submit(samples, deadline_s)

        def plain(judgement: Judgement) -> Judgement:
            return Judgement(tuple((label.partition("/")[2], verdict) for label, verdict in judgement.verdicts))

        return lambda: [plain(judgement) for judgement in wait()]

    def close(self) -> None:
        """Close all connections; they open again by themselves when needed."""
        super().close()
        for mixture in self.mixtures.values():
            mixture.close()


class JointRewardModel:
    """Every task's reward model; one that several tasks share is asked for all their samples at once.

    Args:
        models: by the name of the task.
    """

    def __init__(self, models: Mapping[str, RewardModel]) -> None:
        self.models = models
        self._distinct = list({id(model): model for model in models.values()}.values())
        self.is_here = any(getattr(model, "is_here", False) for model in self._distinct)

    def check(self, policy_tokenizer: PreTrainedTokenizerBase, allow_template_mismatch: bool) -> None:
        """Have every reward model check that it can score what the policy writes."""
        for model in self._distinct:
            model.check(policy_tokenizer, allow_template_mismatch)

    def submit(self, samples: Sequence[Sample], deadline_s: float) -> Callable[[], Scores]:
        """Send each sample to its task's reward model, and return a function that waits for the scores."""
        waiting = []
        for model in self._distinct:
            places = [i for i, sample in enumerate(samples) if self.models[sample.row.task] is model]
            if places:
                waiting.append((places, model.submit([samples[i] for i in places], deadline_s)))

        def wait() -> Scores:
            scores: Scores = [None] * len(samples)
            for places, answer in waiting:
                for i, score in zip(places, answer(), strict=True):
                    scores[i] = score
            return scores

        return wait

    def not_ready(self, rows: Sequence[Row]) -> list[str]:
        """Return why the reward models of these rows' tasks cannot score now; empty where they can."""
        asked = {id(model): model for model in (self.models[row.task] for row in rows)}
        return [why for model in asked.values() for why in getattr(model, "not_ready", lambda rows: [])(rows)]

    def close(self) -> None:
        """Let go of all connections."""
        for model in self._distinct:
            model.close()


def joint_scoring(tasks: Mapping[str, TrainingTask], args: CGPOConfig) -> Scoring:
    """Return what asks the judges and the reward models of all tasks; of a single task they are asked as they are."""
    mixtures = {name: task.mixture for name, task in tasks.items()}
    models = {name: task.reward_model for name, task in tasks.items()}
    (mixture, *others), model = mixtures.values(), next(iter(models.values()))
    return Scoring(
        JointMixture(mixtures) if others else mixture,
        JointRewardModel(models) if others else model,
        args.judge_deadline,
        args.max_unknown_fraction,
        args.judge_outage_timeout,
        tuple(tasks),
    )
