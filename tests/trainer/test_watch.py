"""A run that hacks its reward model, or drifts away, is told of: once per episode."""

import pytest
from transformers import TrainerControl, TrainerState

from trainer.watch import WINDOW, Watch, trend


def test_a_trend_is_more_than_noise():
    # Ten values 0 and 1 in turn have variance 10/36 = 0.278; the standard error of two windows is sqrt(0.556 / 10).
    older = [0.0, 1.0] * 5
    assert trend([*older, *(value + 0.48 for value in older)]) == 1  # 0.48 > 2 * 0.236 = 0.471
    assert trend([*older, *(value + 0.46 for value in older)]) == 0
    assert trend([*older, *(value - 0.48 for value in older)]) == -1
    assert trend(older) == 0  # too few to tell
    assert trend([1.0] * 20) == 0


@pytest.fixture
def said(caplog):
    """Logs series of values through a watch, and returns the steps at which it warned, by a word of the warning."""

    def run(kl_threshold=5.0, prefix="", **series):
        watch, state = Watch({prefix: kl_threshold}), TrainerState(is_world_process_zero=True)
        found = []
        names = {"satisfied": "constraint/satisfied_rate", "score": "score/mean", "logratio": "kl/mean"}
        for step, values in enumerate(zip(*series.values(), strict=True), start=1):
            state.global_step = step
            logs = {f"{prefix}{names[name]}": value for name, value in zip(series, values, strict=True)}
            caplog.clear()
            with caplog.at_level("WARNING", logger="trainer.watch"):
                watch.on_log(None, state, TrainerControl(), logs={"loss": 0.1, **logs})
                watch.on_log(None, state, TrainerControl(), logs={f"eval_{name}": 1e9 for name in logs})
            found += [(step, record.message) for record in caplog.records]
        return found

    return run


def test_a_score_that_rises_while_the_satisfied_rate_falls_is_reward_hacking(said):
    steps = range(40)
    found = said(score=[0.1 * n for n in steps], satisfied=[1.0 - 0.02 * n for n in steps])
    assert [step for step, _ in found] == [2 * WINDOW]
    assert "the score rises while the satisfied rate falls" in found[0][1]
    assert not said(score=[0.1 * n for n in steps], satisfied=[0.02 * n for n in steps])
    assert not said(score=[-0.1 * n for n in steps], satisfied=[1.0 - 0.02 * n for n in steps])


def test_it_is_said_again_once_it_has_been_over(said):
    up, flat = [0.1 * n for n in range(30)], [3.0] * 30
    down = [1.0 - 0.02 * n for n in range(30)]
    satisfied = [*down, *[0.4] * 30, *(one - 0.6 for one in down)]
    found = said(score=[*up, *flat, *(3 + one for one in up)], satisfied=satisfied)
    assert len(found) == 2
    assert found[0][0] == 20
    assert 60 < found[1][0] <= 80


def test_a_log_ratio_near_its_threshold_is_told_by_task(said):
    # The mean of the last ten first exceeds 0.8 * 5 = 4 at 1..n in steps of 0.2: mean of 3.2..5.0 is 4.1 at step 25.
    found = said(prefix="task/chat/", logratio=[0.2 * n for n in range(1, 31)])
    assert [step for step, _ in found] == [25]
    assert "the mean log-ratio of the task chat is 4.1 nats, near kl_threshold=5;" in found[0][1]
