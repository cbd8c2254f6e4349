"""The script that asks a running service about hostile programs tells right answers from wrong ones."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from trainer.services import judge_service
from wire import JudgeClient

sys.path.append(str(Path(__file__).parents[1] / "judge_service" / "fakes"))

from hostile_runs import groups, wrong_answers

FEW = ("correct", "CRLF line ends", "wrong", "always equal", "sys.exit at import", "NaN", "huge reply")


@pytest.fixture(scope="module")
def client():
    with judge_service() as url, JudgeClient(url) as judges:
        yield judges


def rows(names):
    return [row for group in groups() for row in group if row.name in names]


def test_rows_that_get_their_answer_are_not_told(client):
    assert len(rows(FEW)) == len(FEW)
    assert wrong_answers(client, rows(FEW)) == []


def test_a_row_that_gets_another_answer_is_told_with_both(client):
    swapped = [replace(row, outcome="violated") for row in rows(["correct"])]
    unsaid = [replace(row, says="segfault") for row in rows(["wrong"])]
    first, second = wrong_answers(client, swapped + unsaid)
    assert first == "correct: violated  is right, the answer is satisfied: 2 of 2 tests passed"
    assert second.startswith("wrong: violated segfault is right, the answer is violated: 0 of 2 tests passed")


def test_every_row_has_a_name_of_its_own():
    names = [row.name for group in groups() for row in group]
    assert len(set(names)) == len(names) > 200
