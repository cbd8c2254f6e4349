"""CRPG, CODPO and CRRAFT worked out by hand; and what holds for every file in `losses/`: unknown samples are inert."""

import math

import pytest
import torch

from trainer.batch import ScoredRollout
from trainer.loss import LOSSES, LossSettings, load_loss
from trainer.losses import codpo, crpg, crraft

SETTINGS = LossSettings(kl_threshold=5.0)


def gradient(name: str, scored: ScoredRollout, settings: LossSettings = SETTINGS) -> tuple[list, list]:
    """The gradient of a loss with respect to log pi_w of completions and of baselines."""
    chosen = load_loss(name)
    logprobs_BK = scored.logprobs_BK.clone().requires_grad_()
    baseline_logprobs_B = torch.full_like(scored.baseline_scores_B, -5.0).requires_grad_()
    loss = chosen.loss(logprobs_BK, baseline_logprobs_B, scored, chosen.plan(scored, settings, lambda x: x), settings)
    gradients = torch.autograd.grad(loss, [logprobs_BK, baseline_logprobs_B], allow_unused=True)
    return tuple(
        torch.zeros_like(of).tolist() if g is None else g.tolist()
        for g, of in zip(gradients, [logprobs_BK, baseline_logprobs_B], strict=True)
    )


# -- CRPG ---------------------------------------------------------------------------------------------------------


def test_crpg_subtracts_the_mean_of_the_batch():
    # mean of 0.8, 0, 0.4, 0 is 0.3
    rewards, known = torch.tensor([[0.8, 0.0], [0.4, 0.0]]), torch.ones(2, 2, dtype=torch.bool)
    assert crpg.advantages(rewards, known, SETTINGS).flatten().tolist() == pytest.approx([0.5, -0.3, 0.1, -0.3])


def test_crpg_leaves_an_unknown_sample_out_of_the_mean():
    # mean of 0.8, 0, 0.4 is 0.4
    rewards, known = torch.tensor([[0.8, 0.0, 0.4, 9.9]]), torch.tensor([[True, True, True, False]])
    assert crpg.advantages(rewards, known, SETTINGS).flatten().tolist() == pytest.approx([0.4, -0.4, 0, 0])


def test_crpg_with_rewards_1_1_0_0_and_the_second_unknown():
    # mean of 1, 0, 0 is 1/3
    rewards, known = torch.tensor([[1.0, 1, 0, 0]]), torch.tensor([[True, False, True, True]])
    advantages = crpg.advantages(rewards, known, SETTINGS).flatten().tolist()
    assert advantages == pytest.approx([0.667, 0, -0.333, -0.333], abs=5e-4)


@pytest.mark.parametrize(
    ("baseline", "answer"),
    [
        # first prompt 1, 0, 0, unknown; second 1, 1, unknown, unknown
        ("batch", [0.4, -0.6, -0.6, 0, 0.4, 0.4, 0, 0]),  # mean of 1, 0, 0, 1, 1 is 0.6
        ("prompt", [2 / 3, -1 / 3, -1 / 3, 0, 0, 0, 0, 0]),  # means 1/3 and 1
        ("leave_one_out", [1, -0.5, -0.5, 0, 0, 0, 0, 0]),  # means of the others: 0, 1/2, 1/2 and 1, 1
    ],
)
def test_crpg_can_subtract_another_mean(baseline, answer):
    rewards = torch.tensor([[1.0, 0, 0, 7], [1, 1, 7, 7]])
    known = torch.tensor([[True, True, True, False], [True, True, False, False]])
    settings = LossSettings(advantage_baseline=baseline)
    assert crpg.advantages(rewards, known, settings).flatten().tolist() == pytest.approx(answer)


@pytest.mark.parametrize("baseline", ["prompt", "leave_one_out"])
def test_crpg_per_prompt_has_nothing_to_say_of_a_sample_alone(baseline):
    settings = LossSettings(advantage_baseline=baseline)
    advantages = crpg.advantages(torch.tensor([[0.8, 0.1]]), torch.tensor([[True, False]]), settings)
    assert advantages.tolist() == [[0, 0]]


def test_crpg_from_scores_to_gradient(build_scored):
    # Scores minus the baseline's 0: sigmoid(0) = 0.5 each. Second violated: 0. Log-ratio 2 of the third: factor 0.6.
    # R~ = 0.5, 0, 0.3; mean 0.8/3; advantages 0.23333, -0.26667, 0.03333. Gradient: -advantage / 3.
    scored = build_scored([[0.0, 0, 0]], satisfied=[[True, False, True]], logratios=[[0.0, 0, 2]])
    completions, baselines = gradient("crpg", scored)
    assert completions[0] == pytest.approx([-0.0777778, 0.0888889, -0.0111111], abs=1e-6)
    assert baselines == [0]


def test_crpg_treats_the_samples_of_a_prompt_without_baseline_score_as_unknown(build_scored):
    without = build_scored([[2.0, 1], [0, 3]], baseline_known_B=torch.tensor([True, False]))
    alone = build_scored([[2.0, 1]])
    assert gradient("crpg", without)[0] == [pytest.approx(gradient("crpg", alone)[0][0]), [0, 0]]


# -- CODPO --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "satisfied", "answer"),
    [
        ([-1.0, -2, -3, -4], [False, True, True, False], (1, 3)),  # best of -2, -3; worst of -1, -4
        ([1.0, 2, 3, 4], [False, True, True, False], (2, 0)),  # best of 2, 3; worst of 1, 4
        ([1.0, 4, 2, 3], [True] * 4, (1, 0)),  # argmax and argmin
        ([1.0, 4, 2, 3], [False] * 4, (-1, -1)),  # none satisfied: skip
        ([5.0, 5, 5, 5], [True] * 4, (-1, -1)),  # all equal: a completion is not compared with itself
        ([5.0, 5, 5, 5], [True, True, False, False], (0, 2)),
    ],
)
def test_codpo_compares_the_best_satisfied_with_the_worst_violated(scores, satisfied, answer):
    chosen, rejected = codpo.choose(torch.tensor([scores]), torch.tensor([satisfied]), torch.ones(1, 4).bool())
    assert (int(chosen), int(rejected)) == answer


def test_codpo_neither_chooses_nor_rejects_the_unknown():
    # The unknown ones have the best and the worst score. Known: 2 satisfied, -1 violated.
    scores, known = torch.tensor([[9.0, 2, -1, -9]]), torch.tensor([[False, True, True, False]])
    chosen, rejected = codpo.choose(scores, torch.tensor([[True, True, False, False]]), known)
    assert (int(chosen), int(rejected)) == (1, 2)


def test_codpo_loss_by_hand(build_scored):
    # Log-ratios of a+ and a-: 2 and -1, so beta * 3 = 0.3; log pi_w(a+) = -10 + 2 = -8; |a+| = 4; lamb 0.5.
    # loss = -(log sigmoid(0.3) + 0.5/4 * -8) = 0.554355 + 1
    scored = build_scored([[3.0, 1]], satisfied=[[True, False]], logratios=[[2.0, -1]])
    settings = LossSettings(beta=0.1, lamb=0.5)
    plan = codpo.plan(scored, settings)
    loss = codpo.loss(scored.logprobs_BK, scored.baseline_scores_B, scored, plan, settings)
    assert float(loss) == pytest.approx(math.log(1 + math.exp(-0.3)) + 1, abs=1e-5)


def test_codpo_raises_the_chosen_and_lowers_the_rejected(build_scored):
    scored = build_scored([[3.0, 1, 2]], satisfied=[[True, False, True]])
    (chosen, rejected, other), _ = gradient("codpo", scored)[0][0], None
    # Descending the loss moves against its gradient.
    assert chosen < 0 < rejected
    assert other == 0


# -- CRRAFT -------------------------------------------------------------------------------------------------------


def test_crraft_filters_before_it_takes_the_best(build_scored):
    # 5 is violated, 3 is too far from the reference: 1 is left.
    scored = build_scored([[3.0, 1, 5]], satisfied=[[True, True, False]], logratios=[[9.0, 1, 0]])
    plan = crraft.plan(scored, SETTINGS)
    # its weight is eq 5 against a baseline of 0: 1 / (1 + e^-1)
    assert plan.weights_BK.tolist() == [[0, pytest.approx(0.731059, abs=1e-6), 0]]
    assert plan.baseline_weights_B.tolist() == [0]


def test_crraft_falls_back_to_a_satisfied_baseline_with_half_the_weight(build_scored):
    plan = crraft.plan(build_scored([[3.0, 1]], satisfied=[[False, False]]), SETTINGS)
    assert plan.weights_BK.tolist() == [[0, 0]]
    assert plan.baseline_weights_B.tolist() == [0.5]
    assert float(plan.count) == 1


@pytest.mark.parametrize(
    "baseline",
    [
        {"baseline_satisfied_B": torch.tensor([False])},
        {"baseline_logratios_B": torch.tensor([5.1])},
        {"baseline_known_B": torch.tensor([False])},
    ],
)
def test_crraft_skips_a_prompt_whose_baseline_is_violated_or_far_or_unknown(build_scored, baseline):
    scored = build_scored([[3.0, 1]], satisfied=[[False, False]], **baseline)
    assert gradient("crraft", scored) == ([[0, 0]], [0])
    assert float(crraft.plan(scored, SETTINGS).count) == 0


def test_crraft_divides_by_the_kept_prompts(build_scored):
    # First prompt: best is 0, weight 0.5. Second: nothing, baseline violated. Third: baseline, weight 0.5. n = 2.
    scored = build_scored(
        [[0.0, -1], [3, 1], [3, 1]],
        satisfied=[[True, True], [False, False], [False, False]],
        baseline_satisfied_B=torch.tensor([True, False, True]),
    )
    assert gradient("crraft", scored) == ([[-0.25, 0], [0, 0], [0, 0]], [0, 0, -0.25])


# -- Every loss ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_with_an_unknown_sample_is_the_gradient_without_it(name, build_scored):
    # The unknown one would be the best if it counted, and is far from the reference.
    few = build_scored([[2.0, -1, 1]], satisfied=[[True, False, True]], logratios=[[1.0, 0, -2]])
    more = build_scored(
        [[2.0, 99, -1, 1]],
        satisfied=[[True, True, False, True]],
        known=[[True, False, True, True]],
        logratios=[[1.0, 7, 0, -2]],
    )
    (a, b, c), (d, unknown, e, f) = gradient(name, few)[0][0], gradient(name, more)[0][0]
    assert [d, e, f] == [a, b, c]
    assert unknown == 0
    assert any([a, b, c])
    assert gradient(name, few)[1] == gradient(name, more)[1]


@pytest.mark.parametrize("name", LOSSES)
def test_a_prompt_of_unknown_samples_is_as_if_absent(name, build_scored):
    few = build_scored([[2.0, -1]], satisfied=[[True, False]])
    more = build_scored(
        [[2.0, -1], [9, 9]], satisfied=[[True, False], [True, True]], known=[[True, True], [False, False]]
    )
    completions, baselines = gradient(name, more)
    assert (completions[:1], baselines[:1]) == gradient(name, few)
    assert (completions[1], baselines[1]) == ([0, 0], 0)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_equal_finite_differences(name, build_scored):
    scored = build_scored(
        [[0.3, -1.2, 2.0], [1.0, 0.4, -0.7], [0.1, 0.2, 0.3]],
        dtype=torch.float64,
        satisfied=[[True, False, True], [True, True, True], [False, False, False]],
        logratios=[[0.5, 1.0, 4.0], [-2.0, 0.0, 1.0], [0.0, 1.0, 2.0]],
    )
    chosen = load_loss(name)
    plan = chosen.plan(scored, SETTINGS, lambda x: x)

    def loss(logprobs_BK, baseline_logprobs_B):
        return chosen.loss(logprobs_BK, baseline_logprobs_B, scored, plan, SETTINGS)

    inputs = (scored.logprobs_BK.requires_grad_(), torch.full((3,), -5.0, dtype=torch.float64, requires_grad=True))
    value = loss(*inputs)
    gradients = torch.autograd.grad(value, inputs, allow_unused=True)
    before = value.item()
    step = 1e-6
    for number, (given, found) in enumerate(zip(inputs, gradients, strict=True)):
        for place in range(given.numel()):
            moved = [x.detach().clone() for x in inputs]
            moved[number].view(-1)[place] += step
            difference = (loss(*moved).item() - before) / step
            assert difference == pytest.approx(0.0 if found is None else float(found.view(-1)[place]), abs=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_parts_of_a_batch_add_up_to_its_loss(name, build_scored):
    scored = build_scored(
        [[0.3, -1.2], [1.0, 0.4], [0.1, 0.2]],
        satisfied=[[True, False], [True, True], [False, False]],
        logratios=[[1.0, 0.5], [-3.0, 2.0], [0.0, 1.0]],
    )
    chosen = load_loss(name)
    plan = chosen.plan(scored, SETTINGS, lambda x: x)
    baselines = torch.tensor([-5.0, -6, -7])

    def loss(start, stop):
        rows = slice(start, stop)
        part = scored.rows(start, stop)
        return float(chosen.loss(part.logprobs_BK, baselines[rows], part, plan.rows(start, stop), SETTINGS))

    assert loss(0, 1) + loss(1, 3) == pytest.approx(loss(0, 3), abs=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_the_plan_asks_for_exactly_the_logprobs_that_have_a_gradient(name, build_scored):
    scored = build_scored(
        [[0.3, -1.2, 9.0], [1.0, 0.4, 9.0], [0.1, 0.2, 9.0]],
        satisfied=[[True, False, True], [True, True, True], [False, False, True]],
        known=[[True, True, False]] * 3,
    )
    plan = load_loss(name).plan(scored, SETTINGS, lambda x: x)
    completions, baselines = gradient(name, scored)
    assert plan.used_BK.tolist() == [[g != 0 for g in row] for row in completions]
    assert [w != 0 for w in plan.baseline_weights_B.tolist()] == [g != 0 for g in baselines]


def test_the_mean_and_the_count_are_over_all_processes(build_scored):
    # This process has 2 samples with reward 0.5, another has 2 with reward 0: mean 0.25, n = 4.
    scored = build_scored([[0.0, 0.0]])
    sums = iter([1.0, 4.0, 4.0])  # rewards, known, known
    plan = crpg.plan(scored, SETTINGS, lambda x: torch.full_like(x, next(sums)))
    assert plan.weights_BK.tolist() == [[0.25, 0.25]]
    assert float(plan.count) == 4


def test_a_loss_of_ones_own_is_named_by_module():
    assert load_loss("trainer.losses.crpg:") is crpg


def test_a_loss_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match="no loss named 'ppo'; there are: codpo, constrained_grpo, crpg, crraft"):
        load_loss("ppo")


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"known_BK": torch.tensor([[False]])}, "a sample is satisfied but not known"),
        ({"judge_known_BKJ": torch.tensor([[[False]]])}, "a judge is satisfied but not known"),
        (
            {"known_BK": torch.tensor([[False]]), "satisfied_BK": torch.tensor([[False]])},
            "a judge is known of a sample that is not known",
        ),
        ({"judges": ("a", "b")}, r"judge_satisfied_BKJ has shape \(1, 1, 1\), wanted \(1, 1, 2\)"),
    ],
)
def test_verdicts_that_contradict_one_another_are_refused(changed, why, build_scored):
    with pytest.raises(ValueError, match=why):
        ScoredRollout(**{**vars(build_scored([[1.0]])), **changed})
