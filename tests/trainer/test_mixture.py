"""Judges of both kinds, asked together: which of them apply, what they may answer, and what they are given."""

import asyncio
import time

import numpy as np
import pytest
import torch

from trainer.dataset import PromptDataset
from trainer.errors import ConfigError, DatasetError, JudgeError
from trainer.mixture import MixtureOfConstraintJudges, RemoteJudge, Sample
from wire import Verdict, VerdictError


def judged(judges, samples, deadline_s=10.0):
    mixture = MixtureOfConstraintJudges(judges)
    try:
        return mixture.submit(samples, deadline_s)()
    finally:
        mixture.close()


def outcomes(judges, samples, **named):
    return [one.outcome for one in judged(judges, samples, **named)]


class Answers:
    """A judge that answers what it was made with."""

    def __init__(self, *answers):
        self.answers = answers

    def judge(self, prompts, completions):
        return list(self.answers)


# -- In this process ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answers",
    [
        (True, False, "unknown"),
        ("satisfied", "violated", "unknown"),
        (1, 0, -1),
        (1.0, 0.0, -1.0),
        (np.bool_(True), np.int64(0), np.int64(-1)),
        tuple(torch.tensor([1, 0, -1])),
    ],
)
def test_booleans_words_and_numbers_are_verdicts(build_row, answers):
    samples = [Sample(build_row(), text) for text in ("a", "b", "c")]
    assert outcomes([Answers(*answers)], samples) == ["satisfied", "violated", "unknown"]


@pytest.mark.parametrize("answer", [2, "yes", None, 0.5, ["satisfied"], float("nan")])
def test_anything_else_is_an_error_that_names_the_judge_and_what_is_allowed(build_row, answer):
    with pytest.raises(JudgeError, match=r"the judge Answers answered .*; a verdict is a boolean, 'satisfied'"):
        outcomes([Answers(answer)], [Sample(build_row(), "a")])


def test_too_few_verdicts_are_an_error_that_counts(build_row):
    with pytest.raises(JudgeError, match="the judge Answers gave 1 verdicts for 2 completions"):
        outcomes([Answers(True)], [Sample(build_row(), "a"), Sample(build_row(), "b")])


def test_a_verdict_with_its_reason_passes_through(build_row):
    error = VerdictError(type="upstream", detail="no answer", retryable=True)
    given = Verdict(judge="other", outcome="unknown", reason="because", error=error)
    (judgement,) = judged([Answers(given)], [Sample(build_row(), "a")])
    assert judgement.verdicts == (("Answers", given),)


def test_an_abstention_is_not_asked_for_again(build_row):
    (judgement,) = judged([Answers(-1)], [Sample(build_row(), "a")])
    assert judgement.verdicts[0][1].error.retryable is False


def test_a_coroutine_is_a_judge_too(build_row):
    class Slow:
        async def judge(self, prompts, completions):
            await asyncio.sleep(0.01)
            return [completion == "b" for completion in completions]

    assert outcomes([Slow], [Sample(build_row(), "a"), Sample(build_row(), "b")]) == ["violated", "satisfied"]


@pytest.mark.parametrize("is_async", [False, True])
def test_a_judge_that_takes_too_long_leaves_its_verdicts_unknown(build_row, is_async):
    class Blocking:
        def judge(self, prompts, completions):
            time.sleep(5)
            return [True]

    class Waiting:
        async def judge(self, prompts, completions):
            await asyncio.sleep(60)

    started = time.monotonic()
    (judgement,) = judged([Waiting if is_async else Blocking], [Sample(build_row(), "a")], deadline_s=0.05)
    assert time.monotonic() - started < 3
    assert judgement.outcome == "unknown"
    error = judgement.verdicts[0][1].error
    assert (error.type, error.retryable) == ("timeout", True)


def test_an_error_in_a_judge_of_ones_own_is_not_hidden(build_row):
    class Broken:
        def judge(self, prompts, completions):
            raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug"):
        outcomes([Broken], [Sample(build_row(), "a")])


def test_a_judge_is_given_the_columns_that_its_signature_names(build_row):
    seen = {}

    class Picky:
        def judge(self, prompts, completions, ground_truth, limit=None):
            seen.update(prompts=prompts, completions=completions, ground_truth=ground_truth, limit=limit)
            return [True] * len(completions)

    samples = [
        Sample(build_row("ab", ground_truth="4", limit=3, other="x"), "c1"),
        Sample(build_row("cd"), "c2"),
    ]
    outcomes([Picky], samples)
    assert seen == {
        "prompts": [[{"role": "user", "content": "ab"}], [{"role": "user", "content": "cd"}]],
        "completions": ["c1", "c2"],
        "ground_truth": ["4", None],
        "limit": [3, None],
    }


def test_a_judge_with_keywords_is_given_every_column(build_row):
    seen = {}

    class Greedy:
        def judge(self, prompts, completions, **columns):
            seen.update(columns)
            return [True]

    outcomes([Greedy], [Sample(build_row(ground_truth="4", level=2), "a")])
    assert seen == {"ground_truth": ["4"], "level": [2]}


def test_a_column_with_the_name_of_the_first_two_parameters_does_not_stop_a_judge(build_row):
    class Greedy:
        def judge(self, prompts, completions, **columns):
            return [list(columns) == ["ground_truth", "other"]]

    row = build_row(prompts="p", completions="c", other=1)
    assert outcomes([Greedy], [Sample(row, "a")]) == ["satisfied"]


def test_what_has_no_judge_method_is_not_a_judge():
    with pytest.raises(ConfigError, match=r"is not a judge: it has no method judge\(prompts, completions"):
        MixtureOfConstraintJudges([lambda prompts, completions: [True]])


def test_judges_of_one_name_get_numbers():
    mixture = MixtureOfConstraintJudges(
        [Answers(1), Answers(0), RemoteJudge("regex", "http://x"), RemoteJudge("regex", "http://x")]
    )
    assert mixture.labels == ["Answers", "Answers_2", "regex", "regex_2"]


# -- Which judges apply -------------------------------------------------------------------------------------------


def test_a_judge_applies_where_the_row_has_what_it_needs(build_row):
    class NeedsGold:
        needs = ("ground_truth", "metadata.tests")

        def judge(self, prompts, completions):
            return [False] * len(completions)

    rows = [build_row(), build_row(ground_truth="4"), build_row(ground_truth="4", tests=["t"]), build_row(tests=["t"])]
    found = judged([NeedsGold], [Sample(row, "a") for row in rows])
    assert [one.outcome for one in found] == ["satisfied", "satisfied", "violated", "satisfied"]
    assert [len(one.verdicts) for one in found] == [0, 0, 1, 0]


def test_a_rows_own_judges_replace_those_that_would_apply(build_row):
    class Yes(Answers):
        pass

    class No:
        def judge(self, prompts, completions):
            return [False] * len(completions)

    rows = [build_row(), build_row(judges=["Yes"]), build_row(judges=[])]
    found = judged([Yes(True, True), No()], [Sample(row, "a") for row in rows])
    assert [one.outcome for one in found] == ["violated", "satisfied", "satisfied"]
    assert [[label for label, _ in one.verdicts] for one in found] == [["Yes", "No"], ["Yes"], []]


def test_a_row_that_wants_a_judge_that_is_not_there_is_named(build_row):
    mixture = MixtureOfConstraintJudges([Answers(True)])
    with pytest.raises(DatasetError, match=r"rows row 0 wants the judge 'Answer', which is not .* there are: Answers"):
        mixture.check([build_row(judges=["Answer"])])


def test_a_row_with_parameters_for_a_judge_of_this_process_is_an_error(build_row):
    row = build_row(judges=[{"name": "Answers", "parameters": {"limit": 3}}])
    with pytest.raises(DatasetError, match=r"row 0 has parameters for the judge 'Answers' \(limit\), which runs in"):
        MixtureOfConstraintJudges([Answers(True)]).check([row])


# -- Over HTTP ----------------------------------------------------------------------------------------------------


def test_remote_and_local_judges_make_one_outcome(build_row, judge_url):
    judges = [RemoteJudge("word_count", judge_url, max=2), Answers(True, True, -1)]
    samples = [Sample(build_row(), text) for text in ("one two", "one two three", "one")]
    mixture = MixtureOfConstraintJudges(judges)
    mixture.check([build_row()])
    found = mixture.submit(samples, 10)()
    assert [one.outcome for one in found] == ["satisfied", "violated", "unknown"]
    assert [label for label, _ in found[0].verdicts] == ["word_count", "Answers"]
    assert found[0].verdicts[0][1].version
    mixture.close()


def test_what_a_remote_judge_needs_is_asked_of_its_service(build_row, judge_url):
    mixture = MixtureOfConstraintJudges([RemoteJudge("math_answer", judge_url)])
    rows = [build_row(), build_row(ground_truth="7")]
    mixture.check(rows)
    found = mixture.submit([Sample(row, "It is 8.") for row in rows], 20)()
    assert [one.outcome for one in found] == ["satisfied", "violated"]
    mixture.close()


def test_a_rows_own_parameters_go_over_those_of_the_mixture(judge_url, tokenizer, conversation):
    from datasets import Dataset

    # A table gives every row the same columns: what one row leaves out is filled with nulls.
    table = Dataset.from_list(
        [
            {"messages": conversation("a"), "judges": [{"name": "word_count", "parameters": {"max": 1, "min": None}}]},
            {"messages": conversation("b"), "judges": [{"name": "word_count", "parameters": {"max": None, "min": 3}}]},
            {"messages": conversation("c"), "judges": None},
        ]
    )
    rows = list(PromptDataset(table, tokenizer, 128, 8))
    assert [row.judges and row.judges[0]["parameters"] for row in rows] == [{"max": 1}, {"min": 3}, None]
    mixture = MixtureOfConstraintJudges([RemoteJudge("word_count", judge_url, max=2)])
    mixture.check(rows)
    # "x y" has two words: above 1; below 3, which is also above the mixture's 2; within the mixture's own.
    found = mixture.submit([Sample(row, "x y") for row in rows], 10)()
    assert [one.outcome for one in found] == ["violated", "violated", "satisfied"]
    mixture.close()


def test_odd_text_reaches_a_remote_judge(build_row, judge_url):
    row = build_row(ground_truth="lone \ud800", note={"deep": ["\udfff\x00"]}, when=time.struct_time(range(9)))
    mixture = MixtureOfConstraintJudges([RemoteJudge("word_count", judge_url)])
    (judgement,) = mixture.submit([Sample(row, "nul \x00 and \ufffd")], 10)()
    assert judgement.outcome == "satisfied"
    mixture.close()


def test_a_service_that_is_down_is_named_before_training(build_row, free_url):
    mixture = MixtureOfConstraintJudges([RemoteJudge("word_count", free_url)])
    with pytest.raises(ConfigError, match=rf"judge service cannot be used: {free_url}.*start the service or correct"):
        mixture.check([build_row()])


def test_a_url_of_something_else_is_named_before_training(build_row, reward_url):
    mixture = MixtureOfConstraintJudges([RemoteJudge("word_count", reward_url)])
    with pytest.raises(ConfigError, match=rf"judge service cannot be used: {reward_url}/v1/judges: 404"):
        mixture.check([build_row()])
    mixture.close()


def test_what_is_no_url_is_named():
    with pytest.raises(ValueError, match=r"'localhost:8001' is not the URL of a service; write it as in http://"):
        MixtureOfConstraintJudges([RemoteJudge("word_count", "localhost:8001")]).check()


def test_a_judge_that_nobody_answers_is_named_before_training(build_row, judge_url):
    mixture = MixtureOfConstraintJudges([RemoteJudge("no_refusal", judge_url)])
    with pytest.raises(
        ConfigError, match=r"the judge 'no_refusal' at http.* cannot answer: no LLM upstream .*llm\.judges"
    ):
        mixture.check([build_row()])
    mixture.close()


def test_an_unknown_judge_is_named_with_those_there_are(build_row, judge_url):
    mixture = MixtureOfConstraintJudges([RemoteJudge("wordcount", judge_url)])
    with pytest.raises(ConfigError, match=r"no judge named 'wordcount' at http.*the judges there are: .*word_count"):
        mixture.check([build_row()])
    mixture.close()


@pytest.mark.parametrize("parameters", [{"maximum": 3}, {"max": -1}, {"max": "many"}])
def test_an_unknown_or_wrong_parameter_is_named_before_training(build_row, judge_url, parameters):
    mixture = MixtureOfConstraintJudges([RemoteJudge("word_count", judge_url, **parameters)])
    (name,) = parameters
    with pytest.raises(ConfigError, match=rf"does not accept what it is asked: .*word_count.*{name}"):
        mixture.check([build_row()])
    mixture.close()


def test_a_wrong_parameter_of_one_row_is_found_before_training(build_row, judge_url):
    mixture = MixtureOfConstraintJudges([RemoteJudge("word_count", judge_url)])
    rows = [build_row(), build_row(judges=[{"name": "word_count", "parameters": {"mx": 3}}])]
    with pytest.raises(ConfigError, match="mx"):
        mixture.check(rows)
    mixture.close()


def test_a_client_works_again_after_it_was_closed(build_row, judge_url):
    mixture = MixtureOfConstraintJudges([RemoteJudge("word_count", judge_url)])
    for _ in range(2):
        assert mixture.submit([Sample(build_row(), "a")], 10)()[0].outcome == "satisfied"
        mixture.close()
