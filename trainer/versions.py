"""Which versions of judges and reward models have answered in a run, and whether another one may."""

import json
import logging
from collections.abc import Iterable, Mapping
from typing import Any

from trainer.errors import VersionChange

__all__ = ["Versions", "judge_key"]

logger = logging.getLogger(__name__)


def judge_key(label: str, own: Mapping[str, Any]) -> str:
    """Return what a judge's version belongs to: a row's own parameters make it another one."""
    return f"{label} with {json.dumps(own, sort_keys=True, default=str)}" if own else label


class Versions:
    """The versions that have answered, by judge and reward model, in the order in which they appeared.

    Args:
        accept: whether another version than those before may answer; else it ends the run.
    """

    def __init__(self, accept: bool) -> None:
        self._accept = accept
        self.known: dict[str, list[str]] = {}

    def meet(self, seen: Mapping[str, Iterable[str]]) -> bool:
        """Take note of who has answered; return whether there was a change.

        Args:
            seen: versions, by judge or reward model; empty ones say nothing.

        Raises:
            VersionChange: another one than before, and that is refused. Nothing is noted then.
        """
        changes = []
        for name, versions in seen.items():
            known = self.known.get(name, [])
            changes += [(name, known, new) for new in sorted(set(versions)) if new and known and new not in known]
        if changes and not self._accept:
            raise VersionChange(
                f"{'; '.join(_told(*change) for change in changes)}. Put back what was there, or resume from the last "
                "checkpoint with version_change='accept'"
            )
        for change in changes:
            logger.warning("%s; the run goes on, and its ledger names both", _told(*change))
        for name, versions in seen.items():
            listed = self.known.setdefault(name, [])
            listed += [new for new in sorted(set(versions)) if new and new not in listed]
        self.known = {name: listed for name, listed in self.known.items() if listed}
        return bool(changes)

    def resume(self, known: Mapping[str, Iterable[str]]) -> bool:
        """Put what a checkpoint knows before what has been seen since the process began; return as `meet` does.

        Raises:
            VersionChange: these differ, and that is refused.
        """
        seen, self.known = self.known, {name: list(versions) for name, versions in known.items()}
        return self.meet(seen)


def _told(name: str, known: Iterable[str], new: str) -> str:
    return f"{name} answers in version {new}, and in this run so far in {', '.join(known)}"
