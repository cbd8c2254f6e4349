"""One run: its settings and its folder, refused before anything is loaded."""

import io

import pytest
from rich.console import Console

from trainer.errors import CGPOError, ConfigError
from trainer.run import run, training_arguments
from trainer.run_config import RunConfig, with_overrides
from trainer.run_table import comparison


def test_a_number_that_yaml_reads_as_text_is_a_number(tmp_path):
    args = training_arguments({"learning_rate": "1e-5", "missing_eos_penalty": "1e0", "use_cpu": True}, tmp_path)
    assert (args.learning_rate, args.missing_eos_penalty) == (1e-5, 1.0)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"learning_rat": 1e-5}, r"training.learning_rat: CGPOConfig has no such field; did you mean learning_rate"),
        ({"zzzzzz": 1}, r"training.zzzzzz: CGPOConfig has no such field; see `help\(trainer.CGPOConfig\)`"),
        ({"output_dir": "x"}, r"training.output_dir: .* give it as --output"),
        ({"kl_threshold": -1.0}, r"training: kl_threshold=-1.0: must be greater than 0"),
    ],
)
def test_a_setting_that_cannot_work_is_named(tmp_path, settings, why):
    with pytest.raises(ConfigError, match=why):
        training_arguments(settings, tmp_path)


@pytest.fixture
def config():
    return RunConfig(
        model="nowhere", train_dataset="nowhere.jsonl", judges=["a"], judge_url="http://a", reward_url="http://b"
    )


def test_what_has_no_checkpoint_cannot_be_resumed(config, tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(ConfigError, match=r"--resume: there is no checkpoint in .*save_strategy=steps"):
            run(config, folder, console=None, resume=True)


def test_a_run_is_not_written_over_another(config, tmp_path):
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(ConfigError, match="holds a run already; give another --output, or --resume to go on with it"):
        run(config, tmp_path, console=None)


@pytest.fixture
def two_tasks(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"messages": [{"role": "user", "content": "a"}]}\n')
    return RunConfig(
        model="nowhere",
        tasks=[{"name": name, "train_dataset": str(rows), "judges": ["word_count"]} for name in ("one", "two")],
        training={"per_device_train_batch_size": 4, "use_cpu": True},
        judge_url="http://a",
        reward_url="http://b",
    )


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("tasks.one.kl_threshold=-1", "task 'one': kl_threshold=-1.0: must be greater than 0"),
        ("tasks.two.rlhf_optimizer=ppo", "task 'two': no rlhf_optimizer named 'ppo'"),
        ("tasks.two.batch_size=5", "a step has 4 prompts"),
        ("tasks.two.train_dataset=missing.jsonl", "cannot read the dataset 'missing.jsonl'"),
        ("training.learning_rat=1", "training.learning_rat: CGPOConfig has no such field; did you mean learning_rate"),
    ],
)
def test_what_cannot_work_in_a_run_of_tasks_is_told_before_a_model_is_loaded(two_tasks, tmp_path, setting, why):
    with pytest.raises(CGPOError, match=why):
        run(with_overrides(two_tasks, [setting]), tmp_path / "run", console=None)
    with pytest.raises(ConfigError, match="model: cannot load 'nowhere'"):
        run(two_tasks, tmp_path / "run", console=None)


def test_the_table_has_each_tasks_rates_with_wilson_intervals():
    # Wilson of 8 in 10: (0.8 + 1.92/10) / (1 + 3.84/10) = 0.717, plus and minus 1.96 sqrt(0.016 + 0.0096) / 1.384.
    metrics = {
        "eval_task/one/num/satisfied": 8, "eval_task/one/num/violated": 2, "eval_task/one/num/sent": 11,
        "eval_task/one/constraint/word_count/satisfied_rate": 0.8, "eval_task/one/judge/unknown_rate": 1 / 11,
    }  # fmt: skip
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(comparison(metrics, metrics, {"one": ["word_count"], "two": ["regex"]}))
    text = console.export_text()
    assert text.count("80.0% (49.0% to 94.3%)") == 2
    assert "one: every judge satisfied" in text
    assert "word_count" in text
    assert "9.1%" in text
    assert "two: every judge satisfied" in text
