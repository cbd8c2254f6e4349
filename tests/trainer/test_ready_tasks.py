"""Ready tasks: every file is one, its judges exist, and the row in its docstring has what they need."""

import ast
import importlib
import json
import re
from pathlib import Path

import pytest

import trainer.tasks
from judge_service.registry import Registry
from trainer import CGPOConfig
from trainer.errors import ConfigError
from trainer.tasks import READY_TASKS, ready_task

FOLDER = Path(trainer.tasks.__file__).parent


def test_every_file_is_a_ready_task_and_every_ready_task_a_file():
    assert tuple(sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")) == READY_TASKS


@pytest.mark.parametrize("name", READY_TASKS)
def test_a_ready_task_becomes_a_task_that_a_trainer_takes(name, rows):
    task = ready_task(name).task("http://127.0.0.1:9", train_dataset=rows, weight=0.5)
    assert (task.name, task.weight, task.train_dataset) == (name, 0.5, rows)
    assert task.mixture_of_judges.labels == list(ready_task(name).judges)
    settings = task.settings(CGPOConfig(output_dir="x", use_cpu=True, report_to="none"))
    assert (settings.k, settings.kl_threshold) == (task.k, task.kl_threshold)


@pytest.mark.parametrize("name", READY_TASKS)
def test_the_row_in_a_ready_tasks_docstring_has_what_its_judges_need(name):
    text = ast.get_docstring(ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8")))
    (found,) = re.findall(r"A row: `(\{.*?\})`", text, re.DOTALL)
    row = json.loads(" ".join(found.split()))
    assert row["messages"][-1]["role"] == "user"
    present = {"ground_truth"} & set(row) | {f"metadata.{column}" for column in row}
    known = Registry().classes
    for judge in importlib.import_module(f"trainer.tasks.{name}").JUDGES:
        assert set(known[judge].needs) <= present, judge


def test_a_precise_judge_leaves_more_room_than_a_judge_of_taste():
    precise = [ready_task(name).settings for name in ("coding", "instruction_following", "math_reasoning")]
    for settings in precise:
        for strict in (ready_task(name).settings for name in ("general_chat", "harmful_intent")):
            assert settings["k"] > strict["k"]
            assert settings["kl_threshold"] > strict["kl_threshold"]


def test_a_ready_task_that_there_is_not_is_named_with_those_there_are():
    with pytest.raises(ConfigError, match="no ready task named 'maths'; there are: coding, general_chat"):
        ready_task("maths")
