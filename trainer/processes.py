"""How many processes a launcher started for one run, and whether this is the one that talks: from its environment."""

import os
from pathlib import Path
from typing import Any

from trainer.errors import ConfigError

__all__ = ["check_launch", "is_first_process"]


def is_first_process() -> bool:
    """Return whether this process writes tables and files that a run has once: the first of a launcher's, or the one.

    `accelerate launch` and `torchrun` set RANK.
    """
    return os.environ.get("RANK", "0") == "0"


def check_launch(output: Path | None, judge_url: Any, reward_url: Any) -> None:
    """Refuse to let several processes each choose a folder, or start services, of their own.

    Raises:
        ConfigError: something that all processes must agree on is not given.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return
    given = {"--output": output, "--judge-url": judge_url, "--reward-url": reward_url}
    missing = [name for name, value in given.items() if not value]
    if missing:
        raise ConfigError(
            f"{' and '.join(missing)} must be given where several processes share a run: they write one folder, and "
            "ask services that run already"
        )
