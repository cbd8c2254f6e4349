"""From a rollout and its answers to tensors, metrics and records."""

import pytest
import torch

from trainer.batch import Rollout
from trainer.experience import Experience, scored_rollout
from trainer.loss import LossSettings
from trainer.losses import crpg
from trainer.mixture import Judgement
from trainer.rollout import pad_sequences
from trainer.scoring import Judged
from wire import Verdict

CPU = torch.device("cpu")


def said(outcome: str, score: float | None) -> Judged:
    return Judged(Judgement((("a", Verdict(judge="a", outcome=outcome)),)), score)


@pytest.fixture
def rollout():
    """Two prompts, two completions each; the second of each prompt was cut before its end."""
    return Rollout(
        pad_sequences([[3], [3], [3, 4], [3, 4]], [[6, 1], [6, 7], [6, 7, 1], [8]], 0, CPU),
        [["a", "ab"], ["ab", "c"]],
        torch.tensor([[True, False], [True, False]]),
    )


JUDGED = [
    [said("satisfied", 2.0), said("violated", 0.0)],
    [said("unknown", 1.0), said("satisfied", None)],
]
BASELINES = [said("satisfied", 1.5), said("unknown", None)]


def scored(rollout, penalty=None, baselines=BASELINES, baseline_has_eos=(True, False)):
    logprobs, ref_logprobs = torch.tensor([-4.0, -3, -2, -1]), torch.tensor([-5.0, -3, -1, -1])
    return scored_rollout(rollout, JUDGED, baselines, baseline_has_eos, logprobs, ref_logprobs, penalty, ["a"])


def test_what_lacks_a_verdict_or_a_score_is_unknown(rollout):
    result = scored(rollout)
    assert result.known_BK.tolist() == [[True, True], [False, False]]
    assert result.satisfied_BK.tolist() == [[True, False], [False, False]]
    assert result.baseline_known_B.tolist() == [True, False]
    assert result.baseline_satisfied_B.tolist() == [True, False]
    assert result.logratios_BK.tolist() == [[1, 0], [-1, 0]]
    assert result.lengths_BK.tolist() == [[2, 2], [3, 1]]


def test_a_judge_is_known_where_it_applied_and_answered_and_the_sample_is_known():
    verdicts = [
        [("a", "satisfied"), ("b", "violated")],
        [("b", "violated"), ("a", "unknown")],  # violated, whatever a says
        [("a", "satisfied"), ("b", "unknown")],  # unknown: what a says counts no more than the sample does
        [("a", "satisfied"), ("a", "violated")],  # asked twice by its row: one constraint
        [],
    ]
    judged = [
        Judged(Judgement(tuple((label, Verdict(judge=label, outcome=outcome)) for label, outcome in one)), 1.0)
        for one in verdicts
    ]
    rollout = Rollout(pad_sequences([[3]] * 5, [[6, 1]] * 5, 0, CPU), [["a"] * 5], torch.ones(1, 5).bool())
    ratios = torch.zeros(5)
    result = scored_rollout(rollout, [judged], None, (), ratios, ratios, None, ["a", "b", "c"])
    assert result.judges == ("a", "b", "c")
    known = [[True, True, False], [False, True, False], [False] * 3, [True, False, False], [False] * 3]
    assert result.judge_known_BKJ.tolist() == [known]
    satisfied = [[True, False, False], [False] * 3, [False] * 3, [False] * 3, [False] * 3]
    assert result.judge_satisfied_BKJ.tolist() == [satisfied]


def test_the_penalty_is_taken_from_completions_and_baselines_without_end_alike(rollout):
    plain = scored(rollout)
    baselines = [said("satisfied", 1.5), said("satisfied", 1.5)]
    punished = scored(rollout, penalty=0.7, baselines=baselines)
    assert (plain.scores_BK - punished.scores_BK).flatten().tolist() == pytest.approx([0, 0.7, 0, 0.7])
    assert punished.baseline_scores_B.tolist() == pytest.approx([1.5, 0.8])


def test_a_loss_without_baselines_gets_unknown_ones(rollout):
    result = scored(rollout, baselines=None, baseline_has_eos=())
    assert result.baseline_known_B.tolist() == [False, False]


def experience(rollout, build_row):
    result = scored(rollout)
    plan = crpg.plan(result, LossSettings())
    return Experience([build_row("ab"), build_row("cd")], rollout, JUDGED, result, plan)


def test_metrics_leave_the_unknown_out_of_rates_and_count_it(rollout, build_row):
    found = experience(rollout, build_row).metrics(["a"]).result()
    expected = {
        "num/sent": 4,
        "num/satisfied": 1,
        "num/violated": 1,
        "num/unknown": 2,
        "constraint/satisfied_rate": 0.5,
        "judge/unknown_rate": 0.5,
        # Of the four verdicts of the judge: two satisfied, one violated, one unknown.
        "constraint/a/satisfied_rate": 2 / 3,
        "constraint/a/violated_rate": 1 / 3,
        "constraint/a/unknown_rate": 0.25,
        "score/mean": 1.0,  # of 2, 0, 1
        # The satisfied one: sigmoid(2 - 1.5) = 0.622459, times 1 - 1/5; the violated one: 0; the unknown ones: none.
        "reward/mean": 0.622459 * 0.8 / 2,
        "kl/mean": 0.0,  # of 1, 0, -1, 0
        "completion/length": 2.0,
        "completion/eos_rate": 0.5,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_a_ledger_that_does_not_balance_stops_the_run(rollout, build_row):
    wrong = experience(rollout, build_row)
    wrong = Experience(wrong.rows, rollout, [[said("satisfied", 1.0)] * 2] * 2, wrong.scored, wrong.plan)
    with pytest.raises(RuntimeError, match="the ledger does not balance: 4 samples sent"):
        wrong.metrics(["a"])


def test_a_record_holds_verdict_score_and_logratio(rollout, build_row):
    first, *_, last = experience(rollout, build_row).table(step=3)
    assert (first["step"], first["completion"], first["outcome"], first["score"]) == (3, "a", "satisfied", 2.0)
    assert (first["logratio"], first["num_tokens"], first["has_eos"]) == (1.0, 2, True)
    assert first["verdicts"][0]["label"] == "a"
    assert first["reward"] == pytest.approx(0.622459 * 0.8)
    assert (last["completion"], last["score"], last["reward"]) == ("c", None, None)


def test_a_prompt_without_baseline_score_earns_nothing_and_no_zero(rollout, build_row):
    judged = [JUDGED[0], JUDGED[0]]
    ratios = torch.zeros(4)
    result = scored_rollout(rollout, judged, BASELINES, (True, True), ratios, ratios, None, ["a"])
    plan = crpg.plan(result, LossSettings())
    made = Experience([build_row("ab"), build_row("cd")], rollout, judged, result, plan)
    assert [record["reward"] is None for record in made.table(step=1)] == [False, False, True, True]
    assert made.metrics(["a"]).result()["reward/mean"] == pytest.approx(0.622459 / 2)
