"""Tasks: what they inherit, what is refused, and how they share a step's prompts."""

import pytest

from trainer import Task
from trainer.errors import ConfigError, DatasetError
from trainer.task import batch_sizes


class Yes:
    def judge(self, prompts, completions):
        return [True] * len(completions)


def task(name, rows, **settings):
    return Task(name=name, train_dataset=rows, mixture_of_judges=[Yes()], **settings)


def test_what_a_task_does_not_say_comes_from_the_config(build_trainer, rows):
    tasks = [task("own", rows, rlhf_optimizer="codpo", k=2, kl_threshold=7.0, temperature=0.5, max_new_tokens=3)]
    tasks += [task("plain", rows, weight=0.25)]
    trainer = build_trainer({"k": 5, "kl_threshold": 9.0}, tasks=tasks, train_dataset=None, mixture_of_judges=())
    own, plain = trainer.tasks.values()
    assert (own.k, own.temperature, own.max_new_tokens, own.loss_settings.kl_threshold) == (2, 0.5, 3, 7.0)
    assert own.loss.__name__ == "trainer.losses.codpo"
    assert (plain.k, plain.temperature, plain.max_new_tokens, plain.loss_settings.kl_threshold) == (5, 1.0, 6, 9.0)
    assert (plain.loss.__name__, plain.weight, own.weight) == ("trainer.losses.crpg", 0.25, 1.0)
    assert (own.batch_size, plain.batch_size) == (2, 2)  # per_device_train_batch_size=4, shared equally
    assert own.reward_model is plain.reward_model


def test_batch_sizes_that_are_missing_are_equal_shares_of_what_is_left():
    named = [Task(name="a", train_dataset=None, batch_size=6), *(Task(name=n, train_dataset=None) for n in "bc")]
    assert batch_sizes(named, 10) == [6, 2, 2]


@pytest.mark.parametrize(("sizes", "prompts"), [((4, 2), 8), ((4, None), 4), ((None, None), 5)])
def test_batch_sizes_that_do_not_make_a_step_are_refused(sizes, prompts):
    tasks = [Task(name=n, train_dataset=None, batch_size=size) for n, size in zip("ab", sizes, strict=True)]
    with pytest.raises(ConfigError, match=rf"a step has {prompts} prompts .* set per_device_train_batch_size so that"):
        batch_sizes(tasks, prompts)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"rlhf_optimizer": "ppo"}, "task 'b': no rlhf_optimizer named 'ppo'"),
        ({"rlhf_optimizer": "codpo", "k": 1}, "task 'b': k=1: codpo compares the completions of a prompt"),
        ({"kl_threshold": -1.0}, "task 'b': kl_threshold=-1.0: must be greater than 0"),
        ({"weight": -1.0}, "task 'b': weight=-1.0: must be 0 or greater"),
        ({"batch_size": 0}, "task 'b': batch_size=0: must be at least 1"),
        ({"name": "b/c"}, "task 'b/c': name='b/c': must be a word without a slash"),
        ({"name": "a"}, "two tasks are called 'a'"),
        ({"eval_dataset": {"x": [{"messages": [{"role": "user", "content": "a"}]}]}}, "is one list of rows"),
    ],
)
def test_a_task_that_cannot_work_is_refused_by_name(build_trainer, rows, settings, why):
    wrong = task(rows=rows, **{"name": "b", "batch_size": 2, **settings})
    with pytest.raises(ConfigError, match=why):
        build_trainer(tasks=[task("a", rows, batch_size=2), wrong], train_dataset=None, mixture_of_judges=())


def test_tasks_and_the_arguments_of_a_single_task_exclude_each_other(build_trainer, rows):
    with pytest.raises(ConfigError, match="tasks besides train_dataset, eval_dataset or mixture_of_judges: give these"):
        build_trainer(tasks=[task("a", rows)])
    with pytest.raises(ConfigError, match="tasks is empty"):
        build_trainer(tasks=[], train_dataset=None, mixture_of_judges=())


def test_a_bad_row_is_named_with_its_task(build_trainer, rows):
    with pytest.raises(DatasetError, match=r"tasks\['b'\].train_dataset row 8: `messages` is empty"):
        build_trainer(
            tasks=[task("a", rows), task("b", [*rows, {"messages": []}])], train_dataset=None, mixture_of_judges=()
        )


def test_a_task_without_rows_to_train_on_is_named(build_trainer, rows):
    trainer = build_trainer(
        tasks=[task("a", rows), Task(name="b", train_dataset=None)], train_dataset=None, mixture_of_judges=()
    )
    with pytest.raises(DatasetError, match="train_dataset of the task 'b' is missing"):
        trainer.train()


def test_rows_given_to_evaluate_are_refused_where_there_are_several_tasks(build_trainer, rows):
    trainer = build_trainer(tasks=[task("a", rows), task("b", rows)], train_dataset=None, mixture_of_judges=())
    with pytest.raises(ConfigError, match=r"several tasks \(a, b\); give the rows to a task as its eval_dataset"):
        trainer.evaluate(rows)
