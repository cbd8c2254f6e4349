"""What one optimizer step learns from a task: the rollout, what was said of it, and the loss's plan; its metrics."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainer.batch import Plan, Rollout, ScoredRollout
from trainer.constraints import combine
from trainer.dataset import Row
from trainer.metrics import Means
from trainer.rollout import clean_text
from trainer.scoring import Judged

__all__ = ["Experience", "scored_rollout"]


def scored_rollout(
    rollout: Rollout,
    judged: Sequence[Sequence[Judged]],
    baselines: Sequence[Judged] | None,
    baseline_has_eos: Sequence[bool],
    logprobs_N: Tensor,
    ref_logprobs_N: Tensor,
    missing_eos_penalty: float | None,
    labels: Sequence[str],
) -> ScoredRollout:
    """Return everything that is known of a rollout, as tensors.

    Args:
        rollout: the completions.
        judged: per prompt and completion, its verdicts and score.
        baselines: per prompt, those of its baseline; None where the loss needs none.
        baseline_has_eos: per prompt, whether its baseline ends with end-of-sequence.
        logprobs_N: log pi_w of the rollout's sequences, nats.
        ref_logprobs_N: log pi_ref of the same, nats.
        missing_eos_penalty: subtracted from the score of what has no end-of-sequence.
        labels: of all judges of the mixture.
    """
    device = logprobs_N.device
    num_prompts, k = shape = rollout.has_eos_BK.shape
    split = num_prompts * k
    penalty = missing_eos_penalty or 0.0
    flat = [one for row in judged for one in row]
    known = [one.is_known for one in flat]
    satisfied = [one.is_known and one.judgement.outcome == "satisfied" for one in flat]
    # Shapes and types are named: a task may have no prompt on this process, and nothing tells those of an empty list.
    scores_BK = torch.tensor([one.score or 0.0 for one in flat], dtype=torch.float, device=device).view(shape)
    ratios_N = logprobs_N - ref_logprobs_N
    given = baselines or []
    baseline_scores = [(one.score or 0.0) - penalty * (not e) for one, e in zip(given, baseline_has_eos, strict=True)]
    absent = [False] * num_prompts
    return ScoredRollout(
        scores_BK=scores_BK - penalty * (~rollout.has_eos_BK).to(scores_BK.dtype),
        satisfied_BK=torch.tensor(satisfied, dtype=torch.bool, device=device).view(shape),
        known_BK=torch.tensor(known, dtype=torch.bool, device=device).view(shape),
        judges=tuple(labels),
        judge_satisfied_BKJ=_verdicts(judged, labels, ("satisfied",), (*shape, len(labels)), device),
        judge_known_BKJ=_verdicts(judged, labels, ("satisfied", "violated"), (*shape, len(labels)), device),
        logprobs_BK=logprobs_N[:split].view(num_prompts, k),
        ref_logprobs_BK=ref_logprobs_N[:split].view(num_prompts, k),
        lengths_BK=rollout.lengths_BK,
        baseline_scores_B=torch.tensor(baseline_scores or [0.0] * num_prompts, dtype=torch.float, device=device),
        baseline_known_B=torch.tensor(
            [one.score is not None for one in given] or absent, dtype=torch.bool, device=device
        ),
        baseline_satisfied_B=torch.tensor(
            [one.judgement.outcome == "satisfied" for one in given] or absent, dtype=torch.bool, device=device
        ),
        baseline_logprobs_B=logprobs_N[split:] if rollout.baselines else torch.zeros(num_prompts, device=device),
        baseline_logratios_B=ratios_N[split:] if rollout.baselines else torch.zeros(num_prompts, device=device),
    )


def _verdicts(
    judged: Sequence[Sequence[Judged]],
    labels: Sequence[str],
    outcomes: Sequence[str],
    shape: tuple[int, ...],
    device: torch.device,
) -> Tensor:
    """Return, shape BKJ, whether the sample is known and its judge's outcome is one of these.

    A row may ask one judge several questions, which then are one constraint: their Kleene AND.
    """
    found = []
    for one in (one for row in judged for one in row):
        by_label: dict[str, list[str]] = {}
        for label, verdict in one.judgement.verdicts if one.is_known else ():
            by_label.setdefault(label, []).append(verdict.outcome)
        found.append([label in by_label and combine(by_label[label]) in outcomes for label in labels])
    return torch.tensor(found, dtype=torch.bool, device=device).view(shape)


@dataclass(frozen=True)
class Experience:
    """One task's rows of an optimizer step with their rollout, judgements and plan."""

    rows: Sequence[Row]
    rollout: Rollout
    judged: Sequence[Sequence[Judged]]
    scored: ScoredRollout
    plan: Plan

    @property
    def num_unknown(self) -> int:
        """Completions that lack a verdict that matters, or a score."""
        return sum(not one.is_known for row in self.judged for one in row)

    def first(self, num_prompts: int) -> "Experience":
        """Return the experience of the first prompts alone."""
        num_all, k = self.rollout.has_eos_BK.shape
        kept = [*range(num_prompts * k), *(num_all * k + n for n in range(num_prompts * self.rollout.baselines))]
        return Experience(
            self.rows[:num_prompts],
            Rollout(
                self.rollout.sequences.select(torch.tensor(kept, dtype=torch.long)),
                self.rollout.completions[:num_prompts],
                self.rollout.has_eos_BK[:num_prompts],
                self.rollout.baselines,
            ),
            self.judged[:num_prompts],
            self.scored.rows(0, num_prompts),
            self.plan.rows(0, num_prompts),
        )

    def metrics(self, labels: Sequence[str], all_logratios: bool = True) -> Means:
        """Return the step's metrics.

        `num/sent` = `num/satisfied` + `num/violated` + `num/unknown`, checked here.

        Args:
            labels: of all judges of the mixture.
            all_logratios: whether all log-ratios are known; else the mean is of each prompt's first completion, since
                what a score has chosen does not stand for the policy.
        """
        means = Means()
        flat = [one for row in self.judged for one in row]
        outcomes = [one.judgement.outcome if one.score is not None else "unknown" for one in flat]
        known_BK = self.scored.known_BK
        counts = {name: outcomes.count(name) for name in ("satisfied", "violated", "unknown")}
        if sum(counts.values()) != len(flat) or counts["unknown"] != int((~known_BK).sum()):
            raise RuntimeError(f"the ledger does not balance: {len(flat)} samples sent, {counts}")
        means.add("num/sent", [len(flat)])
        for name, count in counts.items():
            means.add(f"num/{name}", [count])
        means.add("constraint/satisfied_rate", [o == "satisfied" for o in outcomes if o != "unknown"])
        means.add("judge/unknown_rate", [o == "unknown" for o in outcomes])
        for label in labels:
            verdicts = [v.outcome for one in flat for name, v in one.judgement.verdicts if name == label]
            means.add(f"constraint/{label}/satisfied_rate", [v == "satisfied" for v in verdicts if v != "unknown"])
            means.add(f"constraint/{label}/violated_rate", [v == "violated" for v in verdicts if v != "unknown"])
            means.add(f"constraint/{label}/unknown_rate", [v == "unknown" for v in verdicts])
        means.add("score/mean", [one.score for one in flat if one.score is not None])
        means.add("reward/mean", [r for r in self.plan.rewards_BK.flatten().tolist() if not math.isnan(r)])
        ratios_BK = self.scored.logratios_BK if all_logratios else self.scored.logratios_BK[:, :1]
        means.add("kl/mean", ratios_BK.flatten().tolist())
        means.add("completion/length", self.scored.lengths_BK.flatten().tolist())
        means.add("completion/eos_rate", self.rollout.has_eos_BK.flatten().tolist())
        return means

    def table(self, step: int) -> list[dict[str, Any]]:
        """Return one record per completion, as the run folder's Parquet files hold them.

        Whatever a judge was given is in it, columns without a type of their own as JSON, so that `cgpo rescore` can ask
        the same again.
        """
        ratios, rewards = self.scored.logratios_BK.tolist(), self.plan.rewards_BK.tolist()
        lengths, has_eos = self.scored.lengths_BK.tolist(), self.rollout.has_eos_BK.tolist()
        return [
            {
                "step": step,
                "task": row.task,
                "row": row.index,
                "prompt": _json(row.messages),
                "completion": self.rollout.completions[b][k],
                "outcome": one.judgement.outcome,
                "ground_truth": _json(row.ground_truth),
                "metadata": _json(row.metadata),
                "judges": _json(row.judges),
                "score": one.score,
                "reward": None if math.isnan(rewards[b][k]) else rewards[b][k],
                "logratio": None if math.isnan(ratios[b][k]) else ratios[b][k],
                "num_tokens": lengths[b][k],
                "has_eos": has_eos[b][k],
                "verdicts": [{"label": label, **verdict.model_dump()} for label, verdict in one.judgement.verdicts],
            }
            for b, row in enumerate(self.rows)
            for k, one in enumerate(self.judged[b])
        ]


def _json(value: Any) -> str | None:
    """Return a value as JSON, None as None; what JSON does not know becomes a string, as on the wire."""
    return None if value is None else clean_text(json.dumps(value, ensure_ascii=False, default=str))
