import datetime
import json
from types import SimpleNamespace

import pytest
import torch

from trainer import MixtureOfConstraintJudges, RemoteJudge
from trainer.completions import write_completions
from trainer.errors import ConfigError, DatasetError
from trainer.evaluation.journal import Judged
from trainer.evaluation.judge_list import parse_judges
from trainer.evaluation.rescore import Changes, Rescoring, judges_of_run, table_of_run
from trainer.experience import Experience
from trainer.mixture import Judgement, Sample, _item
from trainer.scoring import Judged as Scored
from wire import Verdict, VerdictError


def record(verdicts, **columns):
    prompt = json.dumps([{"role": "user", "content": "p"}])
    return {
        "step": 1,
        "row": 4,
        "prompt": prompt,
        "completion": "c",
        "outcome": "satisfied",
        "ground_truth": '"4"',
        "metadata": "{}",
        "judges": None,
        "score": 0.0,
        "reward": 0.0,
        "logratio": 0.0,
        "num_tokens": 1,
        "has_eos": True,
        "verdicts": verdicts,
        **columns,
    }


def verdict(label, outcome="satisfied", version="1+a", score=1.0, error=None):
    plain = {"label": label, "judge": label.rstrip("_2"), "outcome": outcome, "score": score, "reason": "r"}
    return {**plain, "version": version, "error": error}


def test_a_run_tells_its_judges_and_completions(tmp_path):
    judges = ["math_answer", {"name": "word_count", "parameters": {"max": 5}}, {"name": "word_count"}]
    (tmp_path / "config.json").write_text(json.dumps({"judges": judges}))
    assert [(label, spec.parameters) for label, spec in judges_of_run(tmp_path)] == [
        ("math_answer", {}),
        ("word_count", {"max": 5}),
        ("word_count_2", {}),
    ]
    for step in (2, 1):
        write_completions(tmp_path / "completions" / f"train-00000{step}-0.parquet", [record([], step=step)])
    assert [row["step"] for row in table_of_run(tmp_path).rows()] == [1, 2]


def test_a_completion_of_a_task_is_asked_about_by_the_tasks_judges(tmp_path):
    tasks = [
        {"name": "short", "train_dataset": "x", "judges": [{"name": "word_count", "parameters": {"max": 5}}]},
        {"name": "maths", "train_dataset": "x", "ready": "math_reasoning", "judges": []},
        {"name": "long", "train_dataset": "x", "judges": [{"name": "word_count", "parameters": {"min": 9}}]},
    ]
    (tmp_path / "config.json").write_text(json.dumps({"judges": [], "tasks": tasks}))
    judges = judges_of_run(tmp_path)
    assert [label for label, _ in judges] == [
        "short/word_count", "maths/math_answer", "maths/no_repetition", "long/word_count",
    ]  # fmt: skip
    rescoring = Rescoring(judges)
    for task, parameters in (("short", {"max": 5}), ("long", {"min": 9})):
        (judge,) = rescoring.question(0, record([verdict("word_count")], task=task)).judges
        assert (judge.label, judge.spec.parameters) == ("word_count", parameters)
    (judge,) = (
        Rescoring(parse_judges(["word_count:max=7"])).question(0, record([verdict("word_count")], task="x")).judges
    )
    assert judge.spec.parameters == {"max": 7}


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"is .* a run folder"):
        judges_of_run(tmp_path)
    with pytest.raises(ConfigError, match=r"no Parquet files in .*completions"):
        table_of_run(tmp_path)
    for content in ("{", "{}", '{"judges": [{"name": 3}]}'):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(ConfigError, match="name them with --judges"):
            judges_of_run(tmp_path)


def test_a_completion_is_asked_about_as_it_was_then():
    rescoring = Rescoring(parse_judges(["math_answer,word_count:max=5"]))
    row = record([verdict("math_answer"), verdict("Mine")], metadata='{"completion": "gold", "n": [1]}')
    question = rescoring.question(9, row)
    item = question.item
    assert (item.id, item.completion, item.ground_truth) == ("9", "c", "4")
    assert (item.prompt[0].role, item.prompt[0].content, item.metadata) == (
        "user",
        "p",
        {"completion": "gold", "n": [1]},
    )
    assert [judge.label for judge in question.judges] == ["math_answer"]
    assert rescoring.left_out == {"Mine"}


def test_the_rows_own_judges_keep_their_parameters():
    own = [{"name": "word_count", "parameters": {"min": 2}}, {"name": "word_count", "parameters": {"min": 3}}]
    row = record([verdict("word_count"), verdict("word_count")], judges=json.dumps(own))
    question = Rescoring(parse_judges(["word_count:max=5"])).question(0, row)
    assert [(judge.label, judge.spec.parameters) for judge in question.judges] == [
        ("word_count", {"max": 5, "min": 2}),
        ("word_count_2", {"max": 5, "min": 3}),
    ]


def test_a_run_recorded_by_the_trainer_is_asked_about_exactly_as_the_mixture_asked(build_row, tmp_path):
    mixture = MixtureOfConstraintJudges(
        [RemoteJudge("math_answer", "http://judge"), RemoteJudge("word_count", "http://judge", max=9)]
    )
    own = [{"name": "word_count", "parameters": {"min": 2}}]
    rows = [
        build_row(
            "ab", ground_truth={"a": [1, None]}, completion="gold", day=datetime.date(2026, 1, 2), odd="x\ud800y"
        ),
        build_row("cd", judges=own, tests=["assert f() == 1"], nothing=None),
    ]
    judged = []
    for row in rows:
        verdicts = tuple((label, Verdict(judge=label, outcome="satisfied")) for label, _ in mixture.judges_of(row))
        judged.append([Scored(Judgement(verdicts), 0.5)])
    ones = torch.ones(2, 1)
    experience = Experience(
        rows=rows,
        rollout=SimpleNamespace(completions=[["x y"], ["z"]], has_eos_BK=ones.bool()),
        judged=judged,
        scored=SimpleNamespace(logratios_BK=ones, lengths_BK=ones),
        plan=SimpleNamespace(rewards_BK=ones),
    )
    write_completions(tmp_path / "completions" / "train-000001-0.parquet", experience.table(1))
    rescoring = Rescoring(parse_judges(["math_answer,word_count:max=9"]))
    for number, recorded in enumerate(table_of_run(tmp_path).rows()):
        question = rescoring.question(number, recorded)
        specs = [mixture._spec(label, given) for label, given in mixture.judges_of(rows[number])]
        sent = _item(str(number), Sample(rows[number], recorded["completion"]), specs)
        assert question.item.model_copy(update={"judges": [judge.spec for judge in question.judges]}) == sent
    assert number == 1


def test_files_that_keep_too_little_are_refused():
    row = record([])
    del row["metadata"]
    with pytest.raises(DatasetError, match="no column 'metadata'"):
        Rescoring([]).question(0, row)


def test_changes_are_counted_by_judge_with_versions_and_first_examples():
    changes = Changes(most_shown=1)
    error = VerdictError(type="timeout", detail="late", retryable=True)
    for outcome, version in [("satisfied", "1+a"), ("violated", "2+b"), ("violated", "2+b")]:
        now = Judged({"a": Verdict(judge="a", outcome=outcome, score=0.5, reason="now", version=version)})
        changes.add(record([verdict("a")]), now)
    unknown = verdict("a", "unknown", error=error.model_dump(), score=None)
    changes.add(record([unknown]), Judged({"a": Verdict(judge="a", outcome="unknown", error=error)}))
    assert changes.outcomes["a"] == {
        ("satisfied", "satisfied"): 1, ("satisfied", "violated"): 2, ("unknown", "unknown"): 1
    }  # fmt: skip
    assert (changes.num_changed, changes.num_other_scores["a"]) == (2, 1)
    assert [(one.step, one.row, one.label, one.now["reason"]) for one in changes.first] == [(1, 4, "a", "now")]
    assert (changes.table().row_count, changes.examples().row_count) == (1, 1)
