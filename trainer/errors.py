"""Every error that the trainer raises by itself.

    CGPOError
    ├── ConfigError        a value of `CGPOConfig`, or an argument of `CGPOTrainer`, that cannot work
    ├── DatasetError       a row or a column that cannot be trained on
    ├── ModelError         model, tokenizer or reward model do not fit together
    ├── JudgeError         a judge answered something that is not a verdict
    ├── JudgeOutage        judges or reward model gave no answer for longer than allowed
    ├── VersionChange      a judge or a reward model is another one than before
    └── LedgerError        a question has no answer, or two

A message names the thing, its value and the way out.
"""

__all__ = [
    "CGPOError",
    "ConfigError",
    "DatasetError",
    "JudgeError",
    "JudgeOutage",
    "LedgerError",
    "ModelError",
    "VersionChange",
]


class CGPOError(Exception):
    """Base of the tree."""


class ConfigError(CGPOError, ValueError):
    """A configuration value or an argument that cannot work."""


class DatasetError(CGPOError, ValueError):
    """A row or a column that cannot be trained on."""


class ModelError(CGPOError, ValueError):
    """Model, tokenizer or reward model do not fit together."""


class JudgeError(CGPOError, TypeError):
    """A judge answered something that is not a verdict."""


class JudgeOutage(CGPOError, RuntimeError):
    """Judges or reward model gave no answer for longer than `judge_outage_timeout` allows."""


class VersionChange(CGPOError, RuntimeError):
    """A judge or a reward model answers in another version than before, and `version_change` refuses that."""


class LedgerError(CGPOError, RuntimeError):
    """The answers to a step's questions are not one to each."""
