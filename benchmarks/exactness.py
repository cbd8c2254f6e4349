"""How exact log-probabilities are, token by token: python -m benchmarks.exactness

The trainer's log-probabilities of sampled completions against those of a plain forward pass, each sequence alone,
followed by a log-softmax over the vocabulary in float32, and against the same in float64 from the weights on. Beside
them, the same plain pass when the sequences are padded, or go through it together, or attend by other kernels: no way
of computing can be nearer to all of these than they are to one another.
"""

import argparse
import copy
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.lockstep import PROMPTS
from benchmarks.step import embedded
from trainer.abilities import abilities
from trainer.captured import forward_packed
from trainer.head import token_logprobs
from trainer.logprobs import is_arranged, shared_rows
from trainer.packing import pack
from trainer.rollout import Sampler, pad_sequences


@dataclass(frozen=True)
class Sampled:
    """A model, and the token ids of prompts and of completions that it drew."""

    model: Any
    prompts: list[list[int]]
    completions: list[list[int]]

    def plain(self, rows: Sequence[int], padding: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return each token's log-probability by the model's own forward pass over sequences, padded on the left.

        The log-softmax is computed in `dtype`.
        """
        texts = [self.prompts[n] + self.completions[n] for n in rows]
        width = max(map(len, texts)) + padding
        ids = torch.tensor([[0] * (width - len(text)) + text for text in texts])
        mask = torch.tensor([[0] * (width - len(text)) + [1] * len(text) for text in texts])
        arguments = {} if mask.all() else {"attention_mask": mask}
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        logits = self.model(ids, position_ids=positions, use_cache=False, **arguments).logits
        found = []
        for n, row in zip(rows, logits, strict=True):
            target = torch.tensor(self.completions[n])
            logprobs = torch.log_softmax(row[width - len(target) - 1 : width - 1].to(dtype), dim=-1)
            found.append(logprobs.gather(1, target[:, None]).squeeze(1))
        return torch.cat(found)

    def alone(self, padding: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the same, one pass for each sequence."""
        rows = tqdm(range(len(self.prompts)), "one by one", leave=False, file=sys.stderr)
        return torch.cat([self.plain([n], padding, dtype) for n in rows])

    def exact(self) -> Tensor:
        """Return each token's log-probability in float64."""
        wide = replace(self, model=copy.deepcopy(self.model).double())
        return wide.alone(dtype=torch.float64)

    @contextmanager
    def eager(self) -> Iterator[None]:
        """Have the model attend by plain operations meanwhile."""
        before = self.model.config._attn_implementation
        self.model.config._attn_implementation = "eager"
        try:
            yield
        finally:
            self.model.config._attn_implementation = before

    def ours(self, is_shared: bool) -> Tensor:
        """Return each token's log-probability as the trainer computes it, with prompts shared or not."""
        sequences = pad_sequences(self.prompts, self.completions, 0, torch.device("cpu"))
        rows = shared_rows(self.model, sequences, 2**20) if is_shared else [[n] for n in range(len(sequences))]
        packed = pack(sequences, rows, is_arranged(self.model, sequences))
        rule = abilities(self.model).rule
        if rule is None:
            raise SystemExit("the trainer takes this model's own logits, so there is nothing to compare")
        found = forward_packed(
            self.model, packed, lambda hidden, head: token_logprobs(hidden, head, packed.target_M, rule)
        )
        return torch.cat([found[packed.sequence_M == n] for n in range(len(sequences))])

    def ways(self, plain: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield ways to compute the same, each with what it finds."""
        yield "plain pass, each sequence alone", plain
        yield "plain pass, its log-softmax in float64", self.alone(dtype=torch.float64)
        yield "plain pass, 8 places of padding before each", self.alone(padding=8)
        yield "plain pass, all sequences together", self.plain(range(len(self.prompts)))
        with self.eager():
            yield "plain pass, attention by plain operations", self.alone()
        yield "the trainer, each sequence with its prompt", self.ours(is_shared=False)
        yield "the trainer, prompts shared", self.ours(is_shared=True)


def sampled(k: int, length: int) -> Sampled:
    """Return the embedded policy in float32, and K completions of each of the benchmarks' prompts."""
    folder = embedded()["policy"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    turns = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    prompts = [tokenizer.apply_chat_template(one, add_generation_prompt=True, return_dict=False) for one in turns]
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        groups = Sampler(tokenizer, (), length, k * len(prompts)).sample(model, prompts, k, 1.0)
    drawn = [list(completion.token_ids) for group in groups for completion in group]
    return Sampled(model, [prompt for prompt in prompts for _ in range(k)], drawn)


def main() -> None:
    """Print, for float32 and mixed bfloat16, how far each way is from the plain pass."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--k", type=int, default=8, help="completions of each of the six prompts")
    parser.add_argument("--length", type=int, default=64, help="tokens of a completion")
    given = parser.parse_args()
    if min(given.k, given.length) < 1:
        parser.error("--k and --length count from 1")
    drawn = sampled(given.k, given.length)
    with torch.inference_mode():
        exact = drawn.exact()
    print("| log-probability of a token, nats | dtype | from the plain pass: most | mean | from float64: most | mean |")
    print("|---|---|---|---|---|---|")
    for dtype in (torch.float32, torch.bfloat16):
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=dtype != torch.float32):
            plain = drawn.alone()
            for name, found in drawn.ways(plain):
                off = ((found - other).abs() for other in (plain, exact))
                columns = " | ".join(f"{one.max():.2g} | {one.mean():.2g}" for one in off)
                print(f"| {name} | {str(dtype).removeprefix('torch.')} | {columns} |", flush=True)


if __name__ == "__main__":
    main()
