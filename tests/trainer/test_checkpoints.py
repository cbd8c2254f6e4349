"""A run that is killed goes on from its last whole checkpoint as if nothing had been."""

import contextlib
import json
import multiprocessing
import random
import shutil
import time
from pathlib import Path

import pytest
import torch
from torch.nn.utils import parameters_to_vector

from trainer.checkpoints import MARK, last_checkpoint
from trainer.errors import ConfigError

KILLED = -9
STEPS = 8


@pytest.fixture
def run_in_process(judge_url, monkeypatch):
    """Starts the run of killed_run.py in a process of its own; a server that has imported it all forks it off."""
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parent}:{Path(__file__).parents[2]}")
    monkeypatch.syspath_prepend(Path(__file__).parent)
    import killed_run

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["killed_run"])

    def start(folder):
        process = context.Process(target=killed_run.train, args=(str(folder), judge_url))
        process.start()
        return process

    yield start
    for process in multiprocessing.active_children():
        process.kill()


def parameters(folder):
    return torch.load(folder / "parameters.pt", weights_only=True)


def is_half_saved(folder):
    return any(not (one / MARK).exists() for one in folder.glob("checkpoint-*"))


def kill_somewhere(process, folder, where, dice, step_s):
    """Kill within a random step, or soon after a random save began; return whether the run was killed by that."""
    if where == "within a step":
        num_lines = dice.randrange(STEPS + 1)
        wait_for(
            process, lambda: num_lines == 0 or len((folder / "metrics.jsonl").read_bytes().split(b"}")) > num_lines
        )
        process.join(dice.uniform(0.0, step_s))
    else:
        saved = folder / f"checkpoint-{dice.choice((2, 4, 6, 8))}"
        wait_for(process, saved.exists)
        time.sleep(dice.uniform(0.0, 0.005))
    process.kill()
    process.join(60)
    return process.exitcode == KILLED


def wait_for(process, is_so):
    while process.is_alive():
        with contextlib.suppress(FileNotFoundError):
            if is_so():
                return
        time.sleep(0.0005)


@pytest.mark.parametrize(
    "kills", [3, pytest.param(20, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])], ids=lambda n: f"{n} times"
)
def test_a_run_killed_at_a_random_point_and_resumed_ends_with_the_same_parameters(run_in_process, tmp_path, kills):
    for folder in (tmp_path / "first", tmp_path / "whole"):  # the first one waits for the server that forks
        started = time.monotonic()
        process = run_in_process(folder)
        process.join(240)
        usual_s = time.monotonic() - started
        assert process.exitcode == 0
    whole = parameters(folder)
    assert torch.equal(parameters(tmp_path / "first"), whole)
    dice = random.Random(0)
    num_killed, num_half_saved, steps = 0, 0, []
    for number in range(4 * kills):
        folder = tmp_path / f"run-{number}"
        where = ("within a save", "within a step")[number % 2]
        killed = kill_somewhere(run_in_process(folder), folder, where, dice, usual_s / STEPS)
        num_killed += killed
        num_half_saved += killed and is_half_saved(folder)
        steps.append(last_checkpoint(folder).name[11:] if last_checkpoint(folder) else "0")
        again = run_in_process(folder)
        again.join(240)
        assert again.exitcode == 0
        assert torch.equal(parameters(folder), whole), f"run {number}, killed {where}"
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        if steps[-1] != "0":
            assert [line["step"] for line in lines if "loss" in line] == list(range(1, STEPS + 1))
        shutil.rmtree(folder)
        if num_killed == kills:
            break
    print(f"{num_killed} kills, {num_half_saved} of them within a save; gone on from steps {', '.join(steps)}")
    assert num_killed == kills


@pytest.fixture
def saved(build_trainer, tmp_path):
    """A run of four steps with a checkpoint every second one: its folder, its settings, its last parameters."""
    config = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "output_dir": str(tmp_path / "run")}
    trainer = build_trainer(config)
    trainer.train()
    return tmp_path / "run", config, parameters_to_vector(trainer.model.parameters())


def test_a_checkpoint_that_was_not_saved_to_its_end_is_passed_over(build_trainer, saved):
    folder, config, whole = saved
    broken = folder / "checkpoint-4"
    (broken / MARK).unlink()
    (broken / "optimizer.pt").write_bytes((broken / "optimizer.pt").read_bytes()[:100])
    (broken / "trainer_state.json").unlink()
    assert last_checkpoint(folder) == folder / "checkpoint-2"
    resumed = build_trainer(config)
    resumed.train(resume_from_checkpoint=True)
    assert torch.equal(parameters_to_vector(resumed.model.parameters()), whole)
    assert last_checkpoint(folder) == broken
    with (folder / "metrics.jsonl").open() as file:
        assert [line["step"] for line in map(json.loads, file) if "loss" in line] == [1, 2, 3, 4]


def test_a_checkpoint_that_is_named_has_to_be_whole(build_trainer, saved):
    folder, config, _ = saved
    (folder / "checkpoint-4" / MARK).unlink()
    with pytest.raises(ConfigError, match=r"checkpoint-4 is not a whole checkpoint: .*latest whole one of .*point-2"):
        build_trainer(config).train(resume_from_checkpoint=str(folder / "checkpoint-4"))


def test_where_no_checkpoint_is_whole_there_is_nothing_to_resume(build_trainer, saved):
    folder, config, _ = saved
    for mark in folder.glob(f"*/{MARK}"):
        mark.unlink()
    with pytest.raises(ConfigError, match=r"no whole checkpoint in .*run; .*leave resume_from_checkpoint out"):
        build_trainer(config).train(resume_from_checkpoint=True)


def test_an_older_checkpoint_goes_only_once_the_new_one_is_whole(build_trainer, tmp_path):
    config = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 1, "output_dir": str(tmp_path)}
    trainer = build_trainer({**config, "max_steps": 1})
    trainer.train()

    class FullDisk:
        def save(self, path):
            raise OSError("no space left on device")

    trainer = build_trainer({**config, "max_steps": 2})
    trainer.checkpoints._baselines = FullDisk()
    with pytest.raises(OSError, match="no space left"):
        trainer.train()
    assert {one.name for one in tmp_path.glob("checkpoint-*")} == {"checkpoint-1"}
    assert last_checkpoint(tmp_path) is None  # step 1 was saved again, and that save broke off

    trainer = build_trainer({**config, "max_steps": 3})
    trainer.train()
    assert [one.name for one in tmp_path.glob("checkpoint-*")] == ["checkpoint-3"]
    assert trainer.args.save_total_limit == 1


def test_another_number_of_processes_is_told(build_trainer, saved, caplog):
    folder, config, _ = saved
    mark = folder / "checkpoint-2" / MARK
    mark.write_text(json.dumps({**json.loads(mark.read_text()), "num_processes": 2}))
    with caplog.at_level("WARNING", logger="trainer.checkpoints"):
        build_trainer(config).train(resume_from_checkpoint=str(folder / "checkpoint-2"))
    assert "was saved by 2 processes and is gone on from by 1" in caplog.text
