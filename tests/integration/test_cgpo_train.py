"""`cgpo train` against running services, as a user calls it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from transformers import AutoModelForCausalLM

ROOT = Path(__file__).parents[2]


def cgpo(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "trainer.cli", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.fixture
def run_file(tiny_folders, tmp_path):
    rows = [{"messages": [{"role": "user", "content": f"abc {i}"}]} for i in range(4)]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    settings = {
        "model": str(tiny_folders[0]),
        "train_dataset": str(data),
        "eval_dataset": str(data),
        "judges": [{"name": "word_count", "parameters": {"max": 3}}, "no_repetition"],
        "training": {"max_steps": 2, "k": 2, "max_new_tokens": 8, "per_device_train_batch_size": 2, "use_cpu": True},
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


def test_a_run_prints_its_table_leaves_its_folder_and_goes_on_from_its_checkpoint(services, run_file, tmp_path):
    judges, rewards = services
    done = cgpo(
        "train", run_file, "--judge-url", judges, "--reward-url", rewards, "--output", tmp_path / "run",
        "--set", "training.k=3", "--set", "training.save_strategy=steps", "--set", "training.save_steps=2",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for line in ("every judge satisfied", "word_count", "no_repetition", "mean score", "mean log-ratio", "unknown"):
        assert line in done.stdout
    for bar in ("training: 100%", "evaluation: 100%"):
        assert bar in done.stderr
    for noise in ("Loading weights", "Writing model shards"):
        assert noise not in done.stderr
    folder = tmp_path / "run"
    assert json.loads((folder / "config.json").read_text(encoding="utf-8"))["training"]["k"] == 3
    logs = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [log["step"] for log in logs if "loss" in log] == [1, 2]
    completions = pq.read_table(folder / "completions").to_pylist()
    trained = [row for row in completions if row["step"] == 2]
    assert trained
    assert {verdict["judge"] for row in trained for verdict in row["verdicts"]} == {"word_count", "no_repetition"}
    assert AutoModelForCausalLM.from_pretrained(folder / "model").num_parameters() > 0

    done = cgpo(
        "train", run_file, "--judge-url", judges, "--reward-url", rewards, "--output", folder, "--resume",
        "--set", "training.k=3", "--set", "training.max_steps=3", "--set", "eval_dataset=null", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    logs = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [log["step"] for log in logs if "loss" in log] == [1, 2, 3]


def test_a_run_of_several_tasks_tells_each_tasks_rates_before_and_after(services, run_file, tmp_path):
    judges, rewards = services
    settings = yaml.safe_load(run_file.read_text(encoding="utf-8"))
    data = {name: settings.pop(name) for name in ("train_dataset", "eval_dataset")}
    del settings["judges"]
    settings["tasks"] = [
        {"name": "short", **data, "judges": [{"name": "word_count", "parameters": {"max": 3}}]},
        {"name": "calm", **data, "judges": ["no_repetition"], "rlhf_optimizer": "codpo", "weight": 0.5},
    ]
    run_file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    done = cgpo(
        "train", run_file, "--judge-url", judges, "--reward-url", rewards, "--output", tmp_path / "run",
        "--set", "tasks.calm.k=3", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for line in ("short: every judge satisfied", "calm: every judge satisfied", "word_count", "no_repetition", " to "):
        assert line in done.stdout
    logs = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(log["task/short/num/sent"], log["task/calm/num/sent"]) for log in logs if "loss" in log] == [(2, 3)] * 2
    evaluations = [log for log in logs if "eval_num/sent" in log]
    assert [(log["eval_task/short/num/sent"], log["eval_task/calm/num/sent"]) for log in evaluations] == [(4, 4)] * 2


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (["--set", "training.kk=3"], "kk"),
        (["--judge-url", "localhost:8001"], "'localhost:8001' is not the URL of a service"),
        (["--set", "judges=[lenght]"], "no judge named 'lenght'"),
        (["--set", "train_dataset=nowhere.jsonl"], "nowhere.jsonl"),
        (["--judge-url", "http://127.0.0.1:9"], "127.0.0.1:9"),
        (["--set", "tasks=[{name: a, train_dataset: x}]"], "the task 'a' has no judges"),
    ],
)
def test_what_cannot_work_ends_with_one_message_and_no_traceback(services, run_file, tmp_path, change, told):
    judges, rewards = services
    urls = [] if "--judge-url" in change else ["--judge-url", judges]
    done = cgpo("train", run_file, *urls, "--reward-url", rewards, *change, cwd=tmp_path)
    assert done.returncode == 1
    assert told in done.stderr
    assert "Traceback" not in done.stderr
