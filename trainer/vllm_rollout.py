"""Rollouts by a vLLM server, for runs that train a LoRA adapter: `rollout="vllm"`.

The server holds the base model. Before it generates, the adapter as it is now is written as PEFT safetensors into a
folder that both see, under a name made of its own bytes, and loaded; the one before is unloaded. A new name and a new
path each time: vLLM finds the keys and values of a prompt again by the adapter's name and path, so an adapter replaced
in place would be sampled with what the old one computed. With the adapter switched off (baselines are samples of the
reference) the base model is asked.

The completions' log-probabilities are computed here, by the same function as ever; the server's are not asked for.
"""

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import Any, Self

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trainer.errors import ConfigError
from trainer.rollout import Completion, Sampler, clean_text, stop_ids
from wire import ServiceError
from wire.errors import ReplyMalformed, ServiceRefused
from wire.vllm import Generated, ServedModel, VllmClient

__all__ = ["VllmSampler", "make_sampler"]

logger = logging.getLogger(__name__)

START = "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve MODEL --enable-lora --max-lora-rank RANK"


class VllmSampler:
    """Generates completions with a vLLM server, as `trainer.rollout.Sampler` does with the model in this process.

    Args:
        client: reaches the server.
        tokenizer: decodes the completions.
        eos_ids: tokens that end a completion; may be empty.
        max_new_tokens: most tokens of one completion.
        folder: adapters are written here, one subfolder each; the server reads them under the same path.
    """

    def __init__(
        self,
        client: VllmClient,
        tokenizer: PreTrainedTokenizerBase,
        eos_ids: tuple[int, ...],
        max_new_tokens: int,
        folder: Path,
    ) -> None:
        self.client = client
        self.tokenizer = tokenizer
        self.eos_ids = eos_ids
        self.max_new_tokens = max_new_tokens
        self.folder = folder.absolute()
        self._base: ServedModel | None = None
        self._loaded: str | None = None

    @classmethod
    def of(cls, args: Any, model: Any, tokenizer: PreTrainedTokenizerBase, eos_ids: tuple[int, ...]) -> Self:
        """Return the sampler that a configuration describes; a server's token comes from $CGPO_ROLLOUT_TOKEN.

        Raises:
            ConfigError: the model has no LoRA adapter that vLLM can load, or the URL is none.
        """
        _check_adapter(model)
        try:
            client = VllmClient(
                args.rollout_url, token=os.environ.get("CGPO_ROLLOUT_TOKEN"), deadline_s=args.rollout_deadline
            )
        except ValueError as error:
            raise ConfigError(f"rollout_url: {error}") from error
        folder = Path(args.rollout_adapter_dir or Path(args.output_dir) / "rollout")
        return cls(client, tokenizer, eos_ids, args.max_new_tokens, folder)

    def check(self, model: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int | None = None) -> None:
        """Ask the server what it serves, and have it load the adapter as it is.

        Args:
            model: the unwrapped model with its adapter.
            prompts: all that it will be asked about.
            max_new_tokens: most tokens of a completion, where not the sampler's own.

        Raises:
            ConfigError: the server cannot be used, or its context is too short.
        """
        longest_prompt = max((len(ids) for ids in prompts), default=0)
        try:
            self._base = _base(self.client.models(), self.client.url)
        except ServiceError as error:
            raise ConfigError(
                f"rollout_url: the vLLM server cannot be used: {error}; start it with: {START}"
            ) from error
        room, longest = self._base.max_model_len, max_new_tokens or self.max_new_tokens
        if room is not None and longest_prompt + longest > room:
            raise ConfigError(
                f"the vLLM server at {self.client.url} holds {room} tokens (max_model_len); the longest prompt has "
                f"{longest_prompt} and max_new_tokens is {longest}: start it with a larger --max-model-len"
            )
        try:
            self._serve(model)
        except ServiceError as error:
            raise ConfigError(
                f"rollout_url: the vLLM server does not load the adapter in {self.folder}: {error}; start it with "
                f"{START}, RANK at least that of peft_config, and let rollout_adapter_dir be a folder that it sees too"
            ) from error

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
            model: the unwrapped model with its adapter; where that is switched off the base model is asked.
            prompts: token ids of each prompt.
            k: completions per prompt.
            temperature: of the sampling; 0 takes the likeliest token each time.
            on_chunk: called with a prompt's index and its completions as soon as they exist, in any order.
            max_new_tokens: most tokens of one completion, where not the sampler's own.

        Raises:
            ServiceError: the server gave no completions.
        """
        name = self._serve(model)
        per_prompt = 1 if temperature == 0 else k  # the likeliest completion is one: generate it once, repeat it
        # From torch's generator: the same seed makes the same requests, whatever state a run resumes from.
        seeds = torch.randint(2**31, (len(prompts),)).tolist()
        waiting: dict[Future[list[Generated]], int] = {
            self.client.submit(
                name, ids, n=per_prompt, max_tokens=max_new_tokens or self.max_new_tokens, temperature=temperature,
                stop_token_ids=self.eos_ids, seed=seed,
            ): i
            for i, (ids, seed) in enumerate(zip(prompts, seeds, strict=True))
        }  # fmt: skip
        groups: dict[int, list[Completion]] = {}
        try:
            while waiting:
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    i = waiting.pop(future)
                    groups[i] = [self._completion(one) for one in future.result()] * (k // per_prompt)
                    on_chunk(i, [groups[i]])
        finally:
            for future in waiting:
                future.cancel()
        return [groups[i] for i in range(len(prompts))]

    def close(self) -> None:
        """Have the server forget the adapter, and close the connection."""
        try:
            self._forget()
        except ServiceError as error:
            logger.warning("the adapter stays loaded: %s", error)
        self.client.close()

    def _completion(self, generated: Generated) -> Completion:
        ids = tuple(generated.token_ids)
        end = next((t for t, token in enumerate(ids) if token in self.eos_ids), None)
        if end is None and generated.finish_reason == "stop":
            raise ReplyMalformed(
                f"{self.client.url}/v1/completions",
                "a completion stopped at a token that does not end one here; does the server have another tokenizer, "
                "or stop tokens of its own (--generation-config vllm leaves them out)?",
            )
        kept = ids if end is None else ids[: end + 1]
        text = clean_text(self.tokenizer.decode(kept, skip_special_tokens=True))
        return Completion(text, kept, end is not None)

    def _serve(self, model: Any) -> str:
        """Return the name under which the server has this model as it is now, its adapter loaded if need be."""
        if self._base is None:
            self._base = _base(self.client.models(), self.client.url)
        if _is_switched_off(model):
            return self._base.id
        self.folder.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=".writing-", dir=self.folder))
        try:
            # Embeddings are not saved: to decide about them by itself, peft would look for the model on a hub.
            model.save_pretrained(str(fresh), selected_adapters=[model.active_adapter], save_embedding_layers=False)
            name = f"cgpo-{_digest(fresh)}"
            if name == self._loaded:
                return name
            place = self.folder / name
            fresh.chmod(0o755)  # the server may run as somebody else
            try:
                fresh.rename(place)
            except OSError:
                if not place.exists():  # else another process of this run was quicker, with the same content
                    raise
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        # Another process of this run, or a run before, may have had it loaded: the name says what is in it.
        if not self._is_served(name):
            try:
                self.client.load_adapter(name, str(place))
            except ServiceRefused:
                if not self._is_served(name):
                    raise
        self._forget()
        self._loaded = name
        return name

    def _is_served(self, name: str) -> bool:
        return name in {served.id for served in self.client.models()}

    def _forget(self) -> None:
        """Unload the adapter of the step before, and remove its folder."""
        if self._loaded is None:
            return
        name, self._loaded = self._loaded, None
        try:
            self.client.unload_adapter(name)
        except ServiceRefused as error:
            if error.status != 404:  # another process of this run was quicker
                raise
        shutil.rmtree(self.folder / name, ignore_errors=True)


def make_sampler(args: Any, model: Any, tokenizer: PreTrainedTokenizerBase) -> Sampler | VllmSampler:
    """Return what generates in a run: the model in this process, or the server that the configuration names.

    Raises:
        ConfigError: the configuration wants a server and the model has no adapter that one can load.
    """
    eos_ids = stop_ids(model, tokenizer)
    if args.rollout == "vllm":
        return VllmSampler.of(args, model, tokenizer, eos_ids)
    return Sampler(tokenizer, eos_ids, args.max_new_tokens, args.generation_chunk_size)


def _check_adapter(model: Any) -> None:
    config = getattr(model, "peft_config", {}).get(getattr(model, "active_adapter", None))
    if config is None:
        raise ConfigError(
            'rollout="vllm" needs a LoRA adapter, which the server loads after each update; pass peft_config='
            'LoraConfig(...), or set rollout="local" to train all weights'
        )
    if getattr(config.peft_type, "value", config.peft_type) != "LORA" or config.modules_to_save:
        raise ConfigError(
            f'rollout="vllm": vLLM loads LoRA adapters without modules_to_save; this is {config.peft_type} with '
            f'modules_to_save={config.modules_to_save}; change peft_config, or set rollout="local"'
        )


def _base(served: Sequence[ServedModel], url: str) -> ServedModel:
    base = next((one for one in served if one.parent is None), None)
    if base is None:
        raise ReplyMalformed(f"{url}/v1/models", "names no base model")
    return base


def _is_switched_off(model: Any) -> bool:
    from peft.tuners.tuners_utils import BaseTunerLayer  # peft is imported already where there is an adapter

    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    return all(layer.disable_adapters for layer in layers)


def _digest(folder: Path) -> str:
    """Return what tells one adapter from another: its weights and its configuration."""
    digest = hashlib.sha256((folder / "adapter_model.safetensors").read_bytes())
    config = json.loads((folder / "adapter_config.json").read_bytes())
    digest.update(json.dumps(config, sort_keys=True).encode())
    return digest.hexdigest()[:16]
