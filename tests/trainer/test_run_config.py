"""A run as one YAML file: what is read, put in by --set, and refused by name."""

from pathlib import Path

import pytest

from trainer.dataset_source import load_rows
from trainer.errors import ConfigError
from trainer.run_config import RunConfig, TaskEntry, read_run_config, with_overrides

CONFIG = RunConfig(train_dataset="rows.jsonl", judges=["word_count"])


def test_settings_are_put_in_wherever_they_belong():
    found = with_overrides(CONFIG, ["training.k=8", "peft.r=4", "judges=[regex]", "model=a=b"])
    assert (found.training, found.peft, found.judges, found.model) == ({"k": 8}, {"r": 4}, ["regex"], "a=b")
    assert with_overrides(CONFIG, None) == CONFIG


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("training.k", "write it as KEY=VALUE"),
        ("judges.name=x", "judges has no fields; set it as a whole"),
        ("judges=3", "--set: judges: Input should be a valid list"),
        ("modle=x", r"--set: modle: there is no such field; did you mean model\?"),
        ("zzz=x", "--set: zzz: there is no such field; the fields are: model, reward_model,"),
        ("judges=[]", "judges is missing; give train_dataset and judges, or tasks"),
        ("training.k=[", "the value is not YAML"),
    ],
)
def test_a_setting_that_cannot_be_put_in_is_named(setting, why):
    with pytest.raises(ConfigError, match=why):
        with_overrides(CONFIG, [setting])


# -- Several tasks ------------------------------------------------------------------------------------------------

TASKS = RunConfig(
    tasks=[
        TaskEntry(name="short", train_dataset="rows.jsonl", judges=["word_count"]),
        TaskEntry(name="maths", train_dataset="rows.jsonl", ready="math_reasoning", k=3),
    ]
)


def test_a_task_is_named_by_its_name_or_its_number():
    found = with_overrides(TASKS, ["tasks.short.k=8", "tasks.1.weight=0.5", "tasks.maths.judges=[math_answer]"])
    assert (found.tasks[0].k, found.tasks[1].weight, found.tasks[1].judges) == (8, 0.5, ["math_answer"])


def test_a_ready_task_gives_what_a_task_leaves_out():
    short, maths = TASKS.tasks
    assert [entry.name for entry in maths.entries()] == ["math_answer", "no_repetition"]
    assert maths.settings() == {"rlhf_optimizer": "crpg", "k": 3, "kl_threshold": 20.0, "weight": 1.0}
    assert short.settings() == {"weight": 1.0}
    assert TASKS.all_judges() == {"word_count", "math_answer", "no_repetition"}


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("tasks.short.kk=8", r"tasks.0.kk: there is no such field; did you mean k\?"),
        ("tasks.shrot.k=8", "there is no 'shrot' among: short, maths"),
        ("tasks.7.k=8", "there is no '7' among: short, maths"),
        ("tasks.short.judges.word_count=8", "judges has no fields; set it as a whole"),
        ("tasks.short.judges=[]", "the task 'short' has no judges; name some, or a ready task"),
        ("tasks.maths.ready=maths", "no ready task named 'maths'; there are: coding, general_chat"),
        ("tasks.maths.name=short", "two tasks are called 'short'"),
        ("tasks.maths.name=a/b", "tasks.1.name: String should match pattern"),
        ("tasks.short.k=many", "tasks.0.k: Input should be a valid integer"),
        ("train_dataset=rows.jsonl", "train_dataset besides tasks: each task has its own"),
        (
            "tasks.short.judges=[{name: a, params: {}}]",
            "tasks.0.judges.0.*params: there is no such field",
        ),
    ],
)
def test_a_task_that_cannot_be_is_named(setting, why):
    with pytest.raises(ConfigError, match=why):
        with_overrides(TASKS, [setting])


@pytest.mark.parametrize("name", ["quickstart", "multi_task"])
def test_an_example_is_a_run_whose_data_are_there(name):
    config = read_run_config(Path(__file__).parents[2] / "examples" / f"{name}.yaml")
    parts = config.tasks or [config]
    for part in parts:
        train, held_out = load_rows(part.train_dataset), load_rows(part.eval_dataset)
        assert len(train) >= 30
        assert len(held_out) >= 20
        asked = [[row["messages"] for row in rows] for rows in (train, held_out)]
        assert [messages for messages in asked[0] if messages in asked[1]] == []


@pytest.mark.parametrize(("text", "what"), [("", "is empty"), ("- a\n", "holds a list")])
def test_a_file_without_fields_is_told_with_one_to_start_from(tmp_path, text, what):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"run\.yaml {what}.*examples/quickstart\.yaml"):
        read_run_config(path)
