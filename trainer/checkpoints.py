"""Checkpoints that are whole: what a run goes on from, and what is left of one that was killed while it saved.

A checkpoint is whole once `complete.json` is in it, which is written last, and only then do older ones go. A run that
is killed before that leaves a folder that is never gone on from. Besides what `transformers.Trainer` saves (weights,
optimizer, learning rate, position in the data, random numbers of each process) it holds the baselines of each process,
and which versions of judges and reward models have answered.
"""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import TrainerState
from transformers.trainer_utils import rotate_checkpoints

from trainer.baselines import Baselines
from trainer.config import CGPOConfig
from trainer.errors import ConfigError
from trainer.ledger import LEDGER
from trainer.metrics import METRICS
from trainer.versions import Versions

__all__ = ["Checkpoints", "RandomNumbers", "is_whole", "last_checkpoint"]

logger = logging.getLogger(__name__)

MARK = "complete.json"
LINES_BY_STEP = (METRICS, LEDGER)
"""Files of a run folder with a line per step; the lines of steps that a resumed run does again are taken out."""


def is_whole(folder: Path) -> bool:
    """Return whether a checkpoint was saved to its end."""
    return (folder / MARK).is_file()


def last_checkpoint(output_dir: str | Path) -> Path | None:
    """Return the latest whole checkpoint of a run folder, None where there is none."""
    folder = Path(output_dir)
    whole = [one for one in folder.glob("checkpoint-*") if one.name[11:].isdecimal() and is_whole(one)]
    return max(whole, key=lambda one: int(one.name[11:]), default=None)


class RandomNumbers:
    """Where torch's random numbers stood when a step began: a checkpoint saved in its middle is of the step before."""

    def __init__(self) -> None:
        self._states: tuple[Tensor, list[Tensor]] | None = None

    def keep(self) -> None:
        """Remember where they stand: a step begins."""
        self._states = (torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])

    def forget(self) -> None:
        """The step is complete."""
        self._states = None

    def put_back(self) -> None:
        """Put them back to where they stood, if a step is under way."""
        if self._states is not None:
            torch.set_rng_state(self._states[0])
            if self._states[1]:
                torch.cuda.set_rng_state_all(self._states[1])


class Checkpoints:
    """Marks the checkpoints of a run as whole, and gives back what the trainer has beyond `Trainer`'s own state.

    Args:
        args: the run's configuration.
        accelerator: of the trainer; its processes save together.
        baselines: of this process.
        versions: who has answered so far.
    """

    def __init__(self, args: CGPOConfig, accelerator: Accelerator, baselines: Baselines, versions: Versions) -> None:
        self._args = args
        self._accelerator = accelerator
        self._baselines = baselines
        self._versions = versions

    def folder(self, step: int) -> Path:
        """Return where the checkpoint of a step is."""
        return Path(self._args.output_dir) / f"checkpoint-{step}"

    @contextmanager
    def saving(self, state: TrainerState) -> Iterator[Path]:
        """Make what the block saves a whole checkpoint: ours joins it, then it is marked, then older ones go."""
        args, folder = self._args, self.folder(state.global_step)
        folder.mkdir(parents=True, exist_ok=True)
        if args.should_save:
            (folder / MARK).unlink(missing_ok=True)  # of a run that has been here before
        limit, args.save_total_limit = args.save_total_limit, None  # the parent would delete before this one is whole
        try:
            yield folder
        finally:
            args.save_total_limit = limit
        self._baselines.save(_baselines_path(folder, args.process_index))
        self._accelerator.wait_for_everyone()
        if args.should_save:
            content = {
                "step": state.global_step, "num_processes": args.world_size, "versions": self._versions.known
            }  # fmt: skip
            _write_at_once(folder / MARK, json.dumps(content))
            rotate_checkpoints(args.output_dir, limit, state.best_model_checkpoint, use_mtime=True)

    def to_resume(self, given: str | bool | None) -> str | None:
        """Return the checkpoint to go on from, having taken over what it holds of ours; None to begin anew.

        Args:
            given: a checkpoint's folder, True for the latest of the run folder.

        Raises:
            ConfigError: there is none, or it is not whole.
            VersionChange: another judge or reward model has answered since this process began, and that is refused.
        """
        if not given:
            return None
        latest = last_checkpoint(self._args.output_dir)
        folder = latest if given is True else Path(given)
        if folder is None:
            raise ConfigError(
                f"there is no whole checkpoint in {self._args.output_dir}; a run writes them with "
                "save_strategy='steps' and save_steps=N. To begin anew, leave resume_from_checkpoint out"
            )
        if not is_whole(folder):
            raise ConfigError(
                f"{folder} is not a whole checkpoint: it has no {MARK}, which is written last; the latest whole one of "
                f"{self._args.output_dir} is {latest or 'none'}"
            )
        mark = json.loads((folder / MARK).read_text(encoding="utf-8"))
        if mark["num_processes"] != self._args.world_size:
            logger.warning(
                "%s was saved by %d processes and is gone on from by %d: the run will sample other completions than "
                "it would have", folder, mark["num_processes"], self._args.world_size,
            )  # fmt: skip
        baselines = _baselines_path(folder, self._args.process_index)
        if baselines.is_file():
            self._baselines.load(baselines)
        if self._versions.resume(mark["versions"]):
            self._baselines.forget_answers()
        if self._args.should_save:
            for name in LINES_BY_STEP:
                _drop_lines_after(Path(self._args.output_dir) / name, mark["step"])
        return str(folder)


def _baselines_path(folder: Path, process: int) -> Path:
    return folder / f"baselines-{process}.json"


def _write_at_once(path: Path, text: str) -> None:
    """Write a file that is there as a whole or not at all."""
    draft = path.with_name(f".{path.name}")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)


def _drop_lines_after(path: Path, step: int) -> None:
    """Take the lines of later steps out of a JSONL file, and a last one that was not written to its end."""
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
    if kept != lines:
        _write_at_once(path, "".join(f"{line}\n" for line in kept))
