"""One iteration of Algorithm 2 on this process: what each task learns from its rows, all at the same weights."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from trainer.baselines import Baselines
from trainer.batch import Rollout, Sequences
from trainer.dataset import Row
from trainer.experience import Experience, scored_rollout
from trainer.likelihoods import Likelihoods
from trainer.loss import Total
from trainer.metrics import Means
from trainer.mixture import Sample
from trainer.rollout import Completion, Sampler, pad_sequences
from trainer.scoring import Judged, Scoring
from trainer.task import TrainingTask
from trainer.update import linearize
from trainer.vllm_rollout import VllmSampler

__all__ = [
    "Iteration",
    "Requests",
    "Share",
    "deal",
    "find_at_once",
    "generate",
    "joint_sequences",
    "learn",
    "submit_baselines",
]

# What may be said of all tasks together. Scores and rewards of different tasks have no common scale.
COMMON_METRICS = ("constraint/satisfied_rate", "judge/", "kl/", "completion/")


class Requests:
    """What judges and reward models are asked in one iteration: samples of all tasks, as soon as they exist."""

    def __init__(self, scoring: Scoring, rows: Sequence[Row]) -> None:
        self._scoring = scoring
        self._rows = rows
        self._sent: list[tuple[list[int], list[Sample], Callable[[], list[Judged]]]] = []

    def send(self, places: Sequence[int], groups: Sequence[Sequence[Completion]]) -> None:
        """Ask for everything about the completions of the rows at these places: one request, whatever their tasks."""
        named = [(i, Sample(self._rows[i], c.text)) for i, group in zip(places, groups, strict=True) for c in group]
        samples = [sample for _, sample in named]
        self._sent.append(([i for i, _ in named], samples, self._scoring.submit(samples)))

    def answers(self) -> list[list[Judged]]:
        """Wait, and return what was said of each row's completions.

        Raises:
            JudgeOutage: too much stays unknown.
        """
        got = [
            (i, sample, one)
            for places, samples, wait in self._sent
            for i, sample, one in zip(places, samples, wait(), strict=True)
        ]
        got.sort(key=lambda one: one[0])  # stable: a row's completions stay in order
        settled = self._scoring.settle([sample for _, sample, _ in got], [one for _, _, one in got])
        answers: list[list[Judged]] = [[] for _ in self._rows]
        for (i, _, _), one in zip(got, settled, strict=True):
            answers[i].append(one)
        return answers


def generate(
    sampler: Sampler | VllmSampler,
    policy: Any,
    tasks: Mapping[str, TrainingTask],
    rows: Sequence[Row],
    k: int | None,
    send: Callable[[Sequence[int], Sequence[Sequence[Completion]]], None],
) -> list[list[Completion]]:
    """Return each row's completions. Tasks that sample alike are generated together, and so asked about together.

    Args:
        sampler: generates.
        policy: the unwrapped model.
        tasks: by name.
        rows: of any of them.
        k: completions per prompt; None: the task's.
        send: called with the places of rows and their completions, as soon as these exist.
    """
    alike: dict[tuple[int, float, int], list[int]] = {}
    for i, row in enumerate(rows):
        task = tasks[row.task]
        alike.setdefault((k or task.k, task.temperature, task.max_new_tokens), []).append(i)
    completions: list[list[Completion]] = [[] for _ in rows]
    for (number, temperature, max_new_tokens), places in alike.items():

        def on_chunk(start: int, groups: list[list[Completion]], places: list[int] = places) -> None:
            send(places[start : start + len(groups)], groups)

        prompts = [rows[i].prompt_ids for i in places]
        groups = sampler.sample(policy, prompts, number, temperature, on_chunk, max_new_tokens)
        for i, group in zip(places, groups, strict=True):
            completions[i] = group
    return completions


@dataclass(frozen=True)
class Share:
    """One task's part of an iteration, as generated: maybe no row on this process.

    Args:
        task: whose part it is.
        places: of its rows among the iteration's.
        rows: its rows.
        completions: k of each.
        baselines: of each row, where the loss needs them.
        k: completions per row.
        everything: whether the log-probabilities of all sequences are asked for, whoever needs them.
    """

    task: TrainingTask
    places: Sequence[int]
    rows: Sequence[Row]
    completions: Sequence[Sequence[Completion]]
    baselines: Sequence[Completion]
    k: int
    everything: bool = False

    @property
    def needs_all(self) -> bool:
        """Whether log-probabilities are found before anything is said of a sequence: those of all."""
        return self.everything or getattr(self.task.loss, "NEEDS_ALL_LOGPROBS", True)

    @property
    def num_sequences(self) -> int:
        """Completions, and baselines where the loss may train on them."""
        return len(self.rows) * (self.k + self.task.loss.TRAINS_ON_BASELINES)

    def pairs(self, max_length: int) -> list[tuple[Sequence[int], Sequence[int]]]:
        """Return the tokens of each sequence's prompt and completion; baselines, cut where too long, come last."""
        made = [(row.prompt_ids, c.token_ids) for row, g in zip(self.rows, self.completions, strict=True) for c in g]
        if self.task.loss.TRAINS_ON_BASELINES:
            for row, baseline in zip(self.rows, self.baselines, strict=True):
                made.append((row.prompt_ids, baseline.token_ids[: max_length - len(row.prompt_ids)]))
        return made

    def rollout(self, sequences: Sequences) -> Rollout:
        """Return the completions with their sequences."""
        has_eos = [completion.has_eos for group in self.completions for completion in group]
        device = sequences.prompt_ids_NP.device
        return Rollout(
            sequences,
            [[completion.text for completion in group] for group in self.completions],
            torch.tensor(has_eos, dtype=torch.bool, device=device).view(len(self.rows), self.k),
            baselines=self.task.loss.TRAINS_ON_BASELINES,
        )


def deal(
    tasks: Mapping[str, TrainingTask],
    rows: Sequence[Row],
    completions: Sequence[Sequence[Completion]],
    baselines: Baselines,
    k: int | None,
    everything: bool,
) -> list[Share]:
    """Return each task's part of these rows and of their completions, in the order of the tasks."""
    shares = []
    for task in tasks.values():
        places = [i for i, row in enumerate(rows) if row.task == task.name]
        mine = [rows[i] for i in places]
        own = [baselines.of(row) for row in mine] if task.loss.NEEDS_BASELINES else []
        shares.append(Share(task, places, mine, [completions[i] for i in places], own, k or task.k, everything))
    return shares


def submit_baselines(baselines: Baselines, shares: Sequence[Share]) -> Callable[[], dict[str, list[Judged]]]:
    """Send the baselines not judged yet, and return a function that waits for those of each task that needs them."""
    needed = [share for share in shares if share.task.loss.NEEDS_BASELINES]
    wait = baselines.submit([row for share in needed for row in share.rows])

    def judged() -> dict[str, list[Judged]]:
        answers = iter(wait())
        return {share.task.name: [next(answers) for _ in share.rows] for share in needed}

    return judged


def joint_sequences(shares: Sequence[Share], max_length: int, pad_id: int, device: torch.device) -> Sequences:
    """Return the sequences of all shares, one share behind another, as one batch."""
    pairs = [pair for share in shares for pair in share.pairs(max_length)]
    return pad_sequences([prompt for prompt, _ in pairs], [ids for _, ids in pairs], pad_id, device)


def find_at_once(shares: Sequence[Share], likelihoods: Likelihoods, is_idle: bool) -> Tensor:
    """Find the log-probabilities that are needed whatever judges and reward models say, while they still work.

    Of a share that does not need all, those are of each prompt's first completion: no score has chosen it, so that the
    mean log-ratio is one over samples of the policy.

    Args:
        shares: of all tasks.
        likelihoods: of their sequences.
        is_idle: whether nobody else wants the processor meanwhile. Else those firsts, which nobody waits for, are left
            for later: together with what plans use, they read each prompt once.

    Returns:
        Whose are needed, found or not, shape N.
    """
    needed, trained_on = [], []
    for share in shares:
        firsts = [number == 0 for _ in share.rows for number in range(share.k)]
        firsts += [False] * (share.num_sequences - len(firsts))
        needed += [True] * len(firsts) if share.needs_all else firsts
        trained_on += [share.needs_all] * len(firsts)
    device = likelihoods.logprobs_N.device
    needed_N, trained_on_N = (torch.tensor(one, dtype=torch.bool, device=device) for one in (needed, trained_on))
    likelihoods.find(needed_N if is_idle else trained_on_N, trained_on_N)
    return needed_N


def learn(
    shares: Sequence[Share],
    sequences: Sequences,
    likelihoods: Likelihoods,
    needed_N: Tensor,
    answers: Sequence[Sequence[Judged]],
    baseline_answers: Mapping[str, Sequence[Judged]],
    missing_eos_penalty: float | None,
    total: Total,
) -> list[Experience]:
    """Return what each task makes of its share, by its own loss and settings; batch means are per task.

    A plan that uses what is not known yet has it found, and is made anew, until nothing is missing.

    Args:
        shares: of all tasks, in the same order on every process.
        sequences: of all of them, as `joint_sequences` returns it.
        likelihoods: log pi_w and log pi_ref of the sequences.
        needed_N: which sequences' are needed, whatever the plans use, as `find_at_once` returns it.
        answers: what was said of each of the iteration's rows' completions.
        baseline_answers: what was said of the baselines, by task.
        missing_eos_penalty: subtracted from the score of what has no end-of-sequence.
        total: sums over all processes.
    """
    while True:
        experiences, start = [], 0
        used = []
        for share in shares:
            mine = slice(start, start + share.num_sequences)
            start = mine.stop
            rollout = share.rollout(sequences.select(mine))
            judged = [answers[i] for i in share.places]
            scored = scored_rollout(
                rollout, judged, baseline_answers.get(share.task.name), [one.has_eos for one in share.baselines],
                likelihoods.logprobs_N[mine], likelihoods.ref_logprobs_N[mine], missing_eos_penalty,
                share.task.mixture.labels,
            )  # fmt: skip
            plan = share.task.loss.plan(scored, share.task.loss_settings, total)
            experiences.append(Experience(share.rows, rollout, judged, scored, plan))
            used.append(plan.used_BK.flatten())
            if rollout.baselines:
                used.append(plan.baseline_weights_B != 0)
        used_N = torch.cat(used)
        if not total(((used_N | needed_N) & ~likelihoods.is_known_N).any().float()):
            return experiences
        likelihoods.find(used_N | needed_N, trained_on_N=used_N)


@dataclass(frozen=True)
class Iteration:
    """What all tasks learn from one optimizer step's rows on this process.

    Args:
        rows: in the order of the micro-batches.
        shares: each task's part of them.
        experiences: what each task makes of its part.
        sequences: of all parts, one behind another.
        times_s: how long what took, seconds.
        likelihoods: of the sequences; it may keep a graph for the update.
    """

    rows: Sequence[Row]
    shares: Sequence[Share]
    experiences: Sequence[Experience]
    sequences: Sequences
    times_s: Mapping[str, float]
    likelihoods: Likelihoods | None = None

    def linearized(self, start: int, stop: int, weights: Mapping[str, float]) -> tuple[Tensor, Tensor]:
        """Return the weighted sum of the tasks' losses over rows `start` to `stop - 1`, and its derivatives.

        sum_l rho_l loss_l

        Source: Algorithm 2. A task without a weight takes no part: its factors are exactly 0.

        Args:
            start: first row.
            stop: behind the last.
            weights: rho of each task, by its name.

        Returns:
            A scalar, and the derivative by each sequence's log-probability, per nat, shape N.
        """
        values, factors = [], []
        for share, experience in zip(self.shares, self.experiences, strict=True):
            first, last = (sum(place < end for place in share.places) for end in (start, stop))
            value, factor_N = linearize(experience, share.task.loss, share.task.loss_settings, first, last)
            weight = weights.get(share.task.name)
            values.append(torch.zeros_like(value) if weight is None else value * weight)
            factors.append(torch.zeros_like(factor_N) if weight is None else factor_N * weight)
        return torch.stack(values).sum(), torch.cat(factors)

    def adapt(self, trained_on: Collection[str], total: Total) -> None:
        """Have these tasks take over what their losses make of this step for the next; this one is planned already."""
        for share, experience in zip(self.shares, self.experiences, strict=True):
            if share.task.name in trained_on:
                share.task.adapt(experience.scored, total)

    def first(self, num_rows: int) -> "Iteration":
        """Return the iteration of the first rows alone, for metrics and records."""
        if num_rows >= len(self.rows):
            return self
        counts = [sum(place < num_rows for place in share.places) for share in self.shares]
        experiences = [one.first(count) for one, count in zip(self.experiences, counts, strict=True)]
        return replace(self, rows=self.rows[: max(0, num_rows)], experiences=experiences)

    def metrics(self) -> Means:
        """Return the metrics; with several tasks each task's under its name, and what all have in common."""
        means, sums = Means(), Counter[str]()
        for share, experience in zip(self.shares, self.experiences, strict=True):
            own = experience.metrics(share.task.mixture.labels, share.needs_all)
            if len(self.shares) == 1:
                means.merge(own)
                continue
            means.merge(own.under(f"task/{share.task.name}/"))
            means.merge(own.only(COMMON_METRICS))
            sums.update({name: total for name, (total, _) in own.only(("num/",)).totals().items()})
        for name, total in sums.items():
            means.add(name, [total])
        for name, seconds in self.times_s.items():
            means.add(f"time/{name}_s", [seconds])
        return means

    def table(self, step: int) -> list[dict[str, Any]]:
        """Return one record per completion, task by task."""
        return [record for experience in self.experiences for record in experience.table(step)]
