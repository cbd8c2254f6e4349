"""Rollouts: K completions per prompt from a model, as tokens and as text."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from trainer.batch import Sequences
from trainer.decode import can_decode, decode
from trainer.merged_adapter import merged_adapter
from trainer.packed_linear import packed_linears, packs_adapters

__all__ = ["Completion", "Sampler", "clean_text", "in_order", "pad_sequences", "stop_ids"]


@dataclass(frozen=True)
class Completion:
    """One generated (or given) answer: its text, its tokens, and whether it ends with end-of-sequence."""

    text: str
    token_ids: tuple[int, ...]
    has_eos: bool


def stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Return every token that ends a completion; the tokenizer's own comes first. Empty where there is none.

    A model's generation config may name one, a list, or none.
    """
    named = model.generation_config.eos_token_id if model.generation_config is not None else None
    listed = [] if named is None else [named] if isinstance(named, int) else list(named)
    own = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    return tuple(dict.fromkeys([*own, *listed]))


def pad_sequences(
    prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]], pad_id: int, device: torch.device
) -> Sequences:
    """Return token lists as one batch: prompts padded on the left, completions on the right."""
    width = max(len(ids) for ids in prompts)
    length = max(1, *(len(ids) for ids in completions)) if completions else 1
    prompt_rows = [[pad_id] * (width - len(ids)) + list(ids) for ids in prompts]
    completion_rows = [list(ids) + [pad_id] * (length - len(ids)) for ids in completions]
    prompt_lengths = torch.tensor([len(ids) for ids in prompts])[:, None]
    completion_lengths = torch.tensor([len(ids) for ids in completions])[:, None]
    return Sequences(
        torch.tensor(prompt_rows).to(device),
        (torch.arange(width)[None] >= width - prompt_lengths).to(device),
        torch.tensor(completion_rows).to(device),
        (torch.arange(length)[None] < completion_lengths).to(device),
    )


def clean_text(text: str) -> str:
    """Return text that every tokenizer and every wire can carry: each lone surrogate becomes U+FFFD.

    >>> clean_text("a\\ud800b") == "a\\ufffdb"
    True
    """
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


@contextmanager
def _own_settings_only(model: PreTrainedModel) -> Iterator[None]:
    """Hide the model's generation config: its repetition penalty or top-p would sample from another distribution."""
    inner = model.get_base_model() if hasattr(model, "peft_config") else model
    hidden = inner.generation_config
    try:
        for target in {id(m): m for m in (model, inner)}.values():
            target.generation_config = GenerationConfig()
        yield
    finally:
        for target in {id(m): m for m in (model, inner)}.values():
            target.generation_config = hidden


@dataclass(frozen=True)
class Sampler:
    """Generates completions with a tokenizer's stop tokens.

    Args:
        tokenizer: decodes the completions; its pad token fills rows that are done.
        eos_ids: tokens that end a completion; may be empty.
        max_new_tokens: most tokens of one completion.
        chunk_size: sequences generated at once.
    """

    tokenizer: PreTrainedTokenizerBase
    eos_ids: tuple[int, ...]
    max_new_tokens: int
    chunk_size: int

    @torch.inference_mode()
    def sample(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        k: int,
        temperature: float,
        on_chunk: Callable[[int, list[list[Completion]]], None] = lambda start, completions: None,
        max_new_tokens: int | None = None,
    ) -> list[list[Completion]]:
        """Return k completions of each prompt, sampled from the whole distribution (no top-k, no top-p).

        Args:
            model: the unwrapped model; it is in evaluation mode meanwhile, and left in its former mode. Its weights
                are left bit for bit as they were, an adapter's and those below it too.
            prompts: token ids of each prompt.
            k: completions per prompt.
            temperature: of the sampling; 0 takes the likeliest token each time.
            on_chunk: called with the index of a prompt, and the completions of it and of prompts that follow it, as
                soon as these and those of all prompts before them exist; in the order of the prompts.
            max_new_tokens: most tokens of one completion, where not the sampler's own.
        """
        if max_new_tokens not in (None, self.max_new_tokens):
            other = replace(self, max_new_tokens=max_new_tokens)
            return other.sample(model, prompts, k, temperature, on_chunk)
        per_prompt = 1 if temperature == 0 else k  # the likeliest completion is one: generate it once, repeat it
        per_chunk = max(1, self.chunk_size // per_prompt)
        inner = model.get_base_model() if hasattr(model, "peft_config") else model
        was_training = model.training
        model.eval()
        done: list[list[Completion]] = []
        try:
            merged = nullcontext() if packs_adapters(inner) else merged_adapter(model)
            with merged, packed_linears(inner, per_chunk * per_prompt):
                for start in range(0, len(prompts), per_chunk):
                    chunk = prompts[start : start + per_chunk]
                    for run in in_order(self._rows(model, chunk, per_prompt, temperature), len(chunk), per_prompt):
                        groups = [group * (k // per_prompt) for group in run]
                        done.extend(groups)
                        on_chunk(len(done) - len(groups), groups)
        finally:
            model.train(was_training)
        return done

    def _rows(
        self, model: PreTrainedModel, prompts: Sequence[Sequence[int]], k: int, temperature: float
    ) -> Iterator[list[tuple[int, Completion]]]:
        """Yield the completions of a chunk with their rows, as soon as they exist."""
        pad_id = self.tokenizer.pad_token_id
        device = next(model.parameters()).device
        batch = pad_sequences(prompts, [[]] * len(prompts), pad_id, device)
        is_adapted = hasattr(model, "peft_config")
        inner = model.get_base_model() if is_adapted else model
        if can_decode(inner) and not (is_adapted and model.active_peft_config.is_prompt_learning):
            for ended in decode(inner, batch, k, self.max_new_tokens, self.eos_ids, temperature):
                yield [(row, self.completion(ids)) for row, ids in ended]
        else:
            yield list(enumerate(self.cut(self._generate(model, batch, k, temperature))))

    def _generate(self, model: PreTrainedModel, batch: Sequences, k: int, temperature: float) -> Tensor:
        """Return what the model's own `generate` makes of the prompts."""
        config = GenerationConfig(
            max_new_tokens=self.max_new_tokens,
            num_return_sequences=k,
            eos_token_id=list(self.eos_ids) or None,
            pad_token_id=self.tokenizer.pad_token_id,
            **({"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature > 0 else {}),
        )
        with _own_settings_only(model):
            output: Tensor = model.generate(
                input_ids=batch.prompt_ids_NP, attention_mask=batch.prompt_mask_NP.long(), generation_config=config
            )
        return output[:, batch.prompt_ids_NP.shape[1] :]

    def cut(self, token_ids_NT: Tensor) -> list[Completion]:
        """Return each row up to and including its first stop token, as tokens and as text."""
        return [self.completion(ids) for ids in token_ids_NT.tolist()]

    def completion(self, token_ids: Sequence[int]) -> Completion:
        """Return tokens up to and including the first stop token, as tokens and as text."""
        end = next((t for t, token in enumerate(token_ids) if token in self.eos_ids), None)
        kept = token_ids if end is None else token_ids[: end + 1]
        text = clean_text(self.tokenizer.decode(kept, skip_special_tokens=True))
        return Completion(text, tuple(kept), end is not None)


def in_order(
    rows: Iterable[list[tuple[int, Completion]]], num_prompts: int, k: int
) -> Iterator[list[list[Completion]]]:
    """Yield the completions of the next prompts, as soon as those of all prompts before them are complete too."""
    groups: list[list[Completion | None]] = [[None] * k for _ in range(num_prompts)]
    missing = [k] * num_prompts
    first = 0
    for ended in rows:
        for row, completion in ended:
            groups[row // k][row % k] = completion
            missing[row // k] -= 1
        last = next((i for i in range(first, num_prompts) if missing[i]), num_prompts)
        if last > first:
            yield [[one for one in group if one is not None] for group in groups[first:last]]
        first = last
