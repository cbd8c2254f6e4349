"""The neighbours of CGPO worked out by hand. What holds for every loss is in test_losses.py."""

import math

import pytest
import torch

from trainer.loss import LossSettings, adapt
from trainer.losses import constrained_grpo, crpg, gdpo, linear_mix, online_dpo, raft, reward_only, rvpo

SETTINGS = LossSettings(kl_threshold=5.0)
# Deviations have 1e-4 added: the numbers below are without it.
CLOSE = 5e-4


def alone(here):
    return here


# -- Baselines ----------------------------------------------------------------------------------------------------


def test_reward_only_raises_what_scores_best_though_it_is_violated(build_scored):
    # Against a baseline of 0: 1 / (1 + e^-1) = 0.731059 and 0.5; mean 0.615529.
    plan = reward_only.plan(build_scored([[1.0, 0]], satisfied=[[False, True]]), SETTINGS)
    assert plan.weights_BK[0].tolist() == pytest.approx([0.115529, -0.115529], abs=1e-6)


def test_reward_only_is_crpg_where_everything_is_satisfied(build_scored):
    scored = build_scored([[1.0, 0], [-2, 3]], logratios=[[0.0, 2], [-1, 4]])
    assert reward_only.plan(scored, SETTINGS).weights_BK.equal(crpg.plan(scored, SETTINGS).weights_BK)


def test_linear_mix_adds_the_share_of_satisfied_judges(build_scored):
    # Calibrated 0.5 each. First: one of two judges. Second: the only one that answered is violated. Third: none
    # applies. 0.5 + 2 * (0.5, 0, 1) = 1.5, 0.5, 2.5; mean 1.5.
    scored = build_scored(
        [[0.0, 0, 0]],
        satisfied=[[False, False, True]],
        judge_satisfied=[[[True, False], [False, False], [False, False]]],
        judge_known=[[[True, True], [True, False], [False, False]]],
    )
    plan = linear_mix.plan(scored, LossSettings(verdict_weight=2.0))
    assert plan.weights_BK[0].tolist() == pytest.approx([0, -1, 1])


def test_linear_mix_lets_a_score_buy_a_violation(build_scored):
    # 0.731059 + 0.1 * 0 against 0.5 + 0.1 * 1: the violated one wins; to CRPG it is worth 0.
    scored = build_scored([[1.0, 0]], satisfied=[[False, True]])
    bought, _ = linear_mix.plan(scored, LossSettings(verdict_weight=0.1)).weights_BK[0].tolist()
    refused, _ = crpg.plan(scored, SETTINGS).weights_BK[0].tolist()
    assert refused < 0 < bought


def test_raft_trains_on_the_best_known_score_of_each_prompt(build_scored):
    # The second prompt's 9 is unknown, the third prompt is: 2 kept prompts.
    scored = build_scored(
        [[1.0, 3], [9, 2], [5, 6]], satisfied=[[True, False]] * 3, known=[[True, True], [False, True], [False, False]]
    )
    plan = raft.plan(scored, SETTINGS)
    assert plan.weights_BK.tolist() == [[0, 1], [0, 1], [0, 0]]
    assert float(plan.count) == 2
    # log pi_w is -10 everywhere: -(-10 - 10) / 2
    assert float(raft.loss(scored.logprobs_BK, scored.baseline_scores_B, scored, plan, SETTINGS)) == 10


def test_online_dpo_compares_best_and_worst_whatever_the_judges_say(build_scored):
    # 4 is violated and chosen. Log-ratios 2 and -1: -log sigmoid(0.1 * 3).
    scored = build_scored([[4.0, 1, 2]], satisfied=[[False, True, True]], logratios=[[2.0, -1, 0]])
    plan = online_dpo.plan(scored, SETTINGS)
    assert (plan.chosen_B.tolist(), plan.rejected_B.tolist()) == ([0], [1])
    loss = online_dpo.loss(scored.logprobs_BK, scored.baseline_scores_B, scored, plan, LossSettings(beta=0.1, lamb=9.0))
    assert float(loss) == pytest.approx(math.log(1 + math.exp(-0.3)), abs=1e-5)


def test_online_dpo_skips_a_prompt_with_one_known_completion(build_scored):
    plan = online_dpo.plan(build_scored([[4.0, 1]], known=[[True, False]]), SETTINGS)
    assert (plan.chosen_B.tolist(), float(plan.count)) == ([-1], 0)


# -- Constrained GRPO ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("multiplier", "answer"), [(0.0, [1, -1]), (1.0, [0, 0]), (2.0, [-1, 1])])
def test_constrained_grpo_weighs_violations_by_their_multiplier(multiplier, answer, build_scored):
    # Z(r) = 1, -1. The better one is violated: Z(violated) = 1, -1.
    scored = build_scored([[3.0, 1]], satisfied=[[False, True]])
    plan = constrained_grpo.plan(scored, LossSettings(multipliers={"a": multiplier}))
    assert plan.weights_BK[0].tolist() == pytest.approx(answer, abs=CLOSE)
    assert plan.rewards_BK[0].tolist() == [3 - multiplier, 1]


def test_constrained_grpo_hears_nothing_of_a_judge_that_does_not_apply(build_scored):
    # Scores are equal. Of judge a the third sample knows nothing: Z(violated) = -1, 1 over the other two. Judge b
    # applies to one sample only, so there is nothing to compare.
    scored = build_scored(
        [[5.0, 5, 5]],
        satisfied=[[True, False, True]],
        judge_satisfied=[[[True, False], [False, False], [False, True]]],
        judge_known=[[[True, False], [True, False], [False, True]]],
    )
    plan = constrained_grpo.plan(scored, SETTINGS)
    assert plan.weights_BK[0].tolist() == pytest.approx([1, -1, 0], abs=CLOSE)
    assert float(plan.count) == 3


def test_a_multiplier_moves_with_the_rate_of_violations_above_its_target(build_scored):
    # a: 3 of 4 violated, 1 + 0.1 * (0.75 - 0.05). b: 0 of 2, 1 - 0.1 * 0.05. c: no verdict, so it stays.
    scored = build_scored(
        [[0.0, 0], [0, 0]],
        satisfied=[[False, False], [False, True]],
        judge_satisfied=[[[False, True, False]] * 2, [[False] * 3, [True, False, False]]],
        judge_known=[[[True, True, False]] * 2, [[True, False, False]] * 2],
    )
    moved = constrained_grpo.next_multipliers(scored, SETTINGS)
    assert moved == {"a": pytest.approx(1.07), "b": pytest.approx(0.995), "c": 1.0}


def test_a_multiplier_moves_with_what_all_processes_saw(build_scored):
    # Here 1 of 2 violated, elsewhere 2 of 2: 3 of 4.
    scored = build_scored([[0.0, 0]], satisfied=[[False, True]])
    moved = constrained_grpo.next_multipliers(scored, SETTINGS, lambda counts: counts + 2)
    assert moved == {"a": pytest.approx(1.07)}


@pytest.mark.parametrize(
    ("satisfied", "before", "after"), [(False, 9.99, 10.0), (True, 0.001, 0.0), (False, 0.0, 0.095)]
)
def test_a_multiplier_stays_within_0_and_its_largest(satisfied, before, after, build_scored):
    scored = build_scored([[0.0]], satisfied=[[satisfied]])
    assert constrained_grpo.next_multipliers(scored, LossSettings(multipliers={"a": before})) == {
        "a": pytest.approx(after)
    }


def test_a_sample_that_is_unknown_moves_no_multiplier(build_scored):
    scored = build_scored([[0.0, 0]], satisfied=[[True, False]], known=[[True, False]])
    assert constrained_grpo.next_multipliers(scored, SETTINGS) == {"a": pytest.approx(0.995)}


def test_without_judges_there_is_no_multiplier(build_scored):
    empty = torch.zeros(1, 2, 0, dtype=torch.bool)
    scored = build_scored([[3.0, 1]], judges=(), judge_satisfied_BKJ=empty, judge_known_BKJ=empty)
    assert constrained_grpo.next_multipliers(scored, SETTINGS) == {}
    assert constrained_grpo.plan(scored, SETTINGS).weights_BK[0].tolist() == pytest.approx([1, -1], abs=CLOSE)


def test_only_an_adaptive_loss_changes_the_settings_of_the_next_step(build_scored):
    scored = build_scored([[0.0, 0]], satisfied=[[False, True]])
    assert adapt(crpg, scored, SETTINGS, alone) is SETTINGS
    once = adapt(constrained_grpo, scored, SETTINGS, alone)
    twice = adapt(constrained_grpo, scored, once, alone)
    # 0.1 * (0.5 - 0.05) each time
    assert (once.multipliers["a"], twice.multipliers["a"]) == (pytest.approx(1.045), pytest.approx(1.09))
    assert SETTINGS.multipliers == {}


# -- GDPO and RVPO ------------------------------------------------------------------------------------------------


def test_gdpo_standardises_each_reward_in_its_prompt_and_the_sum_over_the_batch(build_scored):
    # First prompt: Z(r) = 1, -1, verdicts equal. Second: scores equal, Z(satisfied) = 1, -1 times 2.
    # Sums 1, -1, 2, -2: mean 0, deviation sqrt(10 / 4) = 1.5811.
    scored = build_scored([[3.0, 1], [7, 7]], satisfied=[[True, True], [True, False]])
    plan = gdpo.plan(scored, LossSettings(verdict_weight=2.0))
    assert plan.weights_BK.flatten().tolist() == pytest.approx([0.6325, -0.6325, 1.2649, -1.2649], abs=CLOSE)


# Scores 3, 1, 1: mean 5/3, deviation 0.9428, Z = 1.4142, -0.7071, -0.7071. Satisfied 0, 1, 0: Z = -0.7071, 1.4142,
# -0.7071. The first is best by score alone, the second by its verdict alone, the third by neither.
TORN = ([[3.0, 1, 1]], [[False, True, False]])


def test_gdpo_adds_what_rvpo_takes_the_soft_minimum_of(build_scored):
    scores, satisfied = TORN
    scored = build_scored(scores, satisfied=satisfied)
    # Sums 0.7071, 0.7071, -1.4142: mean 0, deviation 1.
    assert gdpo.plan(scored, SETTINGS).weights_BK[0].tolist() == pytest.approx([0.7071, 0.7071, -1.4142], abs=CLOSE)
    # -log((e^-1.4142 + e^0.7071) / 2) = -log(1.1356) = -0.1272; of two equal ones: themselves.
    minima = rvpo.aggregated(scored, SETTINGS)[0].tolist()
    assert minima == pytest.approx([-0.1272, -0.1272, -0.7071], abs=CLOSE)
    # Mean -0.3205, deviation 0.2734: 0.1933, 0.1933, -0.3866 over it.
    assert rvpo.plan(scored, SETTINGS).weights_BK[0].tolist() == pytest.approx([0.7071, 0.7071, -1.4142], abs=1e-3)


@pytest.mark.parametrize(("sharpness", "answer"), [(1e-3, [0.3536, 0.3536, -0.7071]), (1e3, [-0.7071] * 3)])
def test_rvpo_goes_from_the_mean_to_the_smallest(sharpness, answer, build_scored):
    scores, satisfied = TORN
    settings = LossSettings(softmin_sharpness=sharpness)
    minima = rvpo.aggregated(build_scored(scores, satisfied=satisfied), settings)[0].tolist()
    assert minima == pytest.approx(answer, abs=2e-3)


def test_rvpo_leaves_a_judge_without_answer_out_of_the_minimum(build_scored):
    # Z(r) = 1, -1, and nothing known of the judge: the minimum of one value is itself.
    scored = build_scored([[3.0, 1]], judge_known=[[[False], [False]]])
    assert rvpo.aggregated(scored, SETTINGS)[0].tolist() == pytest.approx([1, -1], abs=CLOSE)


@pytest.mark.parametrize("loss", [constrained_grpo, gdpo, rvpo], ids=lambda loss: loss.__name__.rpartition(".")[2])
@pytest.mark.parametrize(
    ("scores", "known"), [([[2.0]], [[True]]), ([[2.0, 5]], [[True, False]]), ([[0.1, 0.1, 0.1]], [[True] * 3])]
)
def test_a_group_of_one_or_of_equals_teaches_nothing(loss, scores, known, build_scored):
    plan = loss.plan(build_scored(scores, known=known), SETTINGS)
    assert plan.weights_BK.tolist() == [[0] * len(scores[0])]
