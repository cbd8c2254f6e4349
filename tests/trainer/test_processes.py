"""What a launcher's environment says of the processes of a run, and what each of them has to be told."""

from pathlib import Path

import pytest

from trainer.errors import ConfigError
from trainer.processes import check_launch, is_first_process


def test_one_process_is_the_first_and_needs_nothing_told(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert is_first_process()
    check_launch(None, None, None)


def test_of_several_the_one_with_rank_0_talks(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert not is_first_process()
    monkeypatch.setenv("RANK", "0")
    assert is_first_process()


def test_several_processes_must_be_told_their_folder_and_their_services(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="--output and --judge-url and --reward-url must be given where several"):
        check_launch(None, None, None)
    with pytest.raises(ConfigError, match=r"^--output must be given where several processes share a run"):
        check_launch(None, "http://127.0.0.1:1", "http://127.0.0.1:2")
    check_launch(Path("runs/one"), "http://127.0.0.1:1", "http://127.0.0.1:2")
