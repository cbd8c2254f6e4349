"""The training client: CGPO on `transformers.Trainer`, with judges and reward model over HTTP or in process.

Names are loaded on first use, so that the command line answers without loading torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.cgpo_trainer import CGPOTrainer
    from trainer.config import CGPOConfig
    from trainer.mixture import MixtureOfConstraintJudges, RemoteJudge
    from trainer.reward import RemoteRewardModel
    from trainer.task import Task

__all__ = ["CGPOConfig", "CGPOTrainer", "MixtureOfConstraintJudges", "RemoteJudge", "RemoteRewardModel", "Task"]

_HOMES = {
    "CGPOConfig": "trainer.config",
    "CGPOTrainer": "trainer.cgpo_trainer",
    "MixtureOfConstraintJudges": "trainer.mixture",
    "RemoteJudge": "trainer.mixture",
    "RemoteRewardModel": "trainer.reward",
    "Task": "trainer.task",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'trainer' has no attribute {name!r}; it has: {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOMES[name]), name)
