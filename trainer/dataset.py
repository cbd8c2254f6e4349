"""Rows: from a dataset with `messages` to prompts, baselines, and what the judges need to know."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jinja2 import TemplateError
from torch.utils.data import Dataset as TorchDataset
from transformers import PreTrainedTokenizerBase

from trainer.errors import DatasetError, ModelError
from trainer.rollout import Completion, clean_text

__all__ = ["PromptDataset", "Row", "as_prompts", "check_tokenizer", "collate"]

ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True)
class Row:
    """One prompt, ready for generation.

    Args:
        dataset: name of the dataset it comes from.
        index: position in it.
        messages: the conversation up to and including the last user turn.
        prompt_ids: its tokens, chat template applied, generation prompt added.
        baseline: the dataset's assistant turn; None where it has none.
        ground_truth: the row's gold answer, None where it has none.
        metadata: the row's other columns, without those that are None.
        judges: the row's own list of judges, as in the wire's items; None: every judge that applies.
        task: name of the task it belongs to.
    """

    dataset: str
    index: int
    messages: tuple[Mapping[str, str], ...]
    prompt_ids: tuple[int, ...]
    baseline: Completion | None
    ground_truth: Any
    metadata: Mapping[str, Any]
    judges: tuple[Mapping[str, Any], ...] | None
    task: str = ""


def check_tokenizer(tokenizer: PreTrainedTokenizerBase | None) -> PreTrainedTokenizerBase:
    """Return the tokenizer, with a pad token (end-of-sequence where it has none of its own).

    Raises:
        ModelError: there is no tokenizer, no chat template, or nothing that could serve as pad token.
    """
    if tokenizer is None:
        raise ModelError("processing_class is missing; pass the policy's tokenizer")
    if not getattr(tokenizer, "chat_template", None):
        raise ModelError(
            f"the tokenizer {tokenizer.name_or_path!r} has no chat template; "
            "set tokenizer.chat_template to the one the policy was tuned with"
        )
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise ModelError(
                f"the tokenizer {tokenizer.name_or_path!r} has neither pad nor end-of-sequence token; set "
                "tokenizer.pad_token"
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


class PromptDataset(TorchDataset):
    """A dataset of `Row`s over any sequence of mappings with a `messages` column.

    Every row is checked once on construction, so a run never stops in the middle because of its data.

    Args:
        rows: a `datasets.Dataset`, or any sequence of mappings.
        tokenizer: with chat template and pad token.
        max_length: most tokens of prompt and completion.
        max_new_tokens: how many of them a completion may take.
        name: how messages call this dataset: train_dataset, eval_dataset.
        task: name of the task that its rows belong to.

    Raises:
        DatasetError: it is empty, has no `messages`, or a row cannot be used; the message names the row.
    """

    def __init__(
        self,
        rows: Sequence[Mapping[str, Any]],
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        max_new_tokens: int,
        name: str = "train_dataset",
        task: str = "",
    ) -> None:
        self.rows = rows
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.max_new_tokens = max_new_tokens
        self.name = name
        self.task = task
        self._check_columns()
        for index in range(len(rows)):
            self._check_row(self[index])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        columns = dict(self.rows[index])
        messages, baseline = self._split(index, columns.pop("messages", None))
        try:
            encoded = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
        except TemplateError as error:
            raise DatasetError(f"{self.name} row {index}: the chat template refuses its messages: {error}") from error
        judges = columns.pop("judges", None)
        return Row(
            dataset=self.name,
            index=index,
            messages=tuple(messages),
            prompt_ids=tuple(encoded["input_ids"]),
            baseline=None if baseline is None else self._encode(baseline),
            ground_truth=columns.pop("ground_truth", None),
            metadata={name: value for name, value in columns.items() if value is not None},
            judges=_judge_specs(self.name, index, judges),
            task=self.task,
        )

    def __iter__(self) -> Iterator[Row]:
        return (self[index] for index in range(len(self)))

    def _encode(self, text: str) -> Completion:
        """Return a complete assistant turn as tokens, ended by the tokenizer's end-of-sequence."""
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        eos = [] if self.tokenizer.eos_token_id is None else [self.tokenizer.eos_token_id]
        return Completion(text, tuple([*ids, *eos][: self.max_length]), True)

    def _split(self, index: int, messages: Any) -> tuple[list[dict[str, str]], str | None]:
        if isinstance(messages, (list, tuple)) and not messages:
            raise DatasetError(f"{self.name} row {index}: `messages` is empty; it needs a user turn")
        if not isinstance(messages, (list, tuple)):
            raise DatasetError(
                f"{self.name} row {index}: `messages` is {type(messages).__name__}, not a list of messages"
            )
        turns = []
        for message in messages:
            if not isinstance(message, Mapping) or not isinstance(message.get("content"), str):
                raise DatasetError(f"{self.name} row {index}: a message needs `role` and a string `content`")
            if message.get("role") not in ROLES:
                raise DatasetError(
                    f"{self.name} row {index}: role {message.get('role')!r} is not one of {', '.join(ROLES)}"
                )
            turns.append({"role": message["role"], "content": clean_text(message["content"])})
        baseline = turns.pop()["content"] if turns[-1]["role"] == "assistant" else None
        if not turns or turns[-1]["role"] == "assistant":
            raise DatasetError(f"{self.name} row {index}: there is no user turn to answer before the assistant's")
        return turns, baseline

    def _check_columns(self) -> None:
        if isinstance(self.rows, Mapping):
            raise DatasetError(
                f"{self.name} is a dictionary of {', '.join(map(repr, self.rows)) or 'nothing'}; pass one of its "
                "datasets"
            )
        if not hasattr(self.rows, "__len__"):
            raise DatasetError(
                f"{self.name} is a {type(self.rows).__name__}, whose rows cannot be counted; pass a dataset that is "
                "not streamed, or a list of rows"
            )
        if len(self.rows) == 0:
            raise DatasetError(f"{self.name} is empty; it needs at least one row with `messages`")
        columns = set(self.rows[0])
        if "messages" not in columns:
            raise DatasetError(
                f"{self.name} has no column `messages` (it has: {', '.join(sorted(columns))}); each row is a list of "
                '{"role", "content"}, the last assistant turn being the baseline'
            )

    def _check_row(self, row: Row) -> None:
        num_tokens = len(row.prompt_ids) + self.max_new_tokens
        if num_tokens > self.max_length:
            raise DatasetError(
                f"{self.name} row {row.index}: the prompt has {len(row.prompt_ids)} tokens, which with "
                f"max_new_tokens={self.max_new_tokens} exceeds max_length={self.max_length}; shorten the prompt, lower "
                "max_new_tokens or raise max_length"
            )


def collate(rows: list[Row]) -> dict[str, Any]:
    """Return rows as a batch. The tensor is for accelerate, which takes a batch's size from its first dimension."""
    return {"rows": rows, "input_ids": torch.tensor([[row.index] for row in rows])}


def _judge_specs(name: str, index: int, judges: Any) -> tuple[Mapping[str, Any], ...] | None:
    """Return a row's `judges` as names and parameters, None where it has none."""
    if judges is None:
        return None
    if not isinstance(judges, (list, tuple)):
        raise DatasetError(
            f"{name} row {index}: `judges` is {type(judges).__name__}, not a list of judges; write {[judges]!r}"
        )
    return tuple(_judge_spec(name, index, spec) for spec in judges)


def _judge_spec(name: str, index: int, spec: Any) -> Mapping[str, Any]:
    """Return one entry of a row's `judges` as name and parameters; a table's filled-in nulls are dropped."""
    if isinstance(spec, str):
        return {"name": spec, "parameters": {}}
    if not isinstance(spec, Mapping) or not isinstance(spec.get("name"), str):
        raise DatasetError(f'{name} row {index}: an entry of `judges` is neither a name nor {{"name", "parameters"}}')
    parameters = spec.get("parameters") or {}
    return {"name": spec["name"], "parameters": {key: v for key, v in parameters.items() if v is not None}}


def as_prompts(
    rows: Any, tokenizer: PreTrainedTokenizerBase, max_length: int, max_new_tokens: int, name: str, task: str = ""
) -> PromptDataset | dict[str, PromptDataset] | None:
    """Return what a user passed as a dataset as prompts: one, a dictionary of several, or none."""
    if rows is None:
        return None
    if isinstance(rows, Mapping) and name.endswith("eval_dataset"):
        return {
            key: PromptDataset(part, tokenizer, max_length, max_new_tokens, f"{name}[{key!r}]", task)
            for key, part in rows.items()
        }
    return PromptDataset(rows, tokenizer, max_length, max_new_tokens, name, task)
