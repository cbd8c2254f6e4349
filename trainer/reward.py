"""What `reward_model=` takes: a service that scores, or a sequence classifier in this process."""

import hashlib
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trainer.dataset import Row, check_tokenizer
from trainer.errors import ConfigError, ModelError
from trainer.foreign_reward import ForeignRewardModel
from trainer.mixture import Sample, reasons_not_ready
from wire import RewardClient, ScoreItem, ServiceError
from wire.base import Message
from wire.reward import RewardServiceInfo, ScoreError, ScoreResponse
from wire.reward_protocols import RewardProtocol

__all__ = ["LocalRewardModel", "RemoteRewardModel", "RewardModel", "as_reward_model"]

Scores = list[float | ScoreError | None]


def is_loopback(url: str) -> bool:
    """Return whether an address is one of this machine.

    >>> [is_loopback(url) for url in ("http://localhost:8002", "http://[::1]:1", "https://127.0.0.9", "http://reward:80")]
    [True, True, True, False]
    """
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


class RewardModel(Protocol):
    """Scores completions. Where there is no score, which is never a zero: why not, or None.

    A `ScoreError` also says whether asking again can help; after None it is tried. Three things may be left out:
    `versions() -> set[str]`, who has given scores since that was asked last: a change in mid-run is noticed;
    `not_ready(rows) -> list[str]`: while it gives reasons, nothing is asked again; and `is_here`, true where it
    computes on this machine: a policy on the same processor then leaves to later what can wait.
    """

    def check(self, policy_tokenizer: PreTrainedTokenizerBase, allow_template_mismatch: bool) -> None:
        """Raise an error where this reward model cannot score what that policy writes."""

    def submit(self, samples: Sequence[Sample], deadline_s: float) -> Callable[[], Scores]:
        """Send samples off, and return a function that waits for their scores."""

    def close(self) -> None:
        """Let go of connections."""


class RemoteRewardModel:
    """The reward model of a reward service, or of a server that speaks another protocol.

    Args:
        url: where the service is, or a list of replicas.
        token: bearer token, where the service wants one.
        model: which of the service's models; the first where None.
        protocol: cgpo for a reward service; of others vllm (`/classify`), tei (`/predict`), openrlhf (`/get_reward`).
        tokenizer: for the others, which read finished text: the reward model's own; the policy's where None.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        *,
        token: str | None = None,
        model: str | None = None,
        protocol: Literal["cgpo"] | RewardProtocol = "cgpo",
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> None:
        self.urls = [url] if isinstance(url, str) else list(url)
        self.token = token
        self.model = model
        self.protocol = protocol
        self._client: RewardClient | None = None
        self._versions: set[str] = set()
        self.is_here = all(map(is_loopback, self.urls))
        self._foreign = None if protocol == "cgpo" else ForeignRewardModel(self.urls, protocol, token, model, tokenizer)

    def check(self, policy_tokenizer: PreTrainedTokenizerBase, allow_template_mismatch: bool) -> None:
        """Ask the service whether it is ready and has the policy's chat template.

        Raises:
            ConfigError: the service is down or not ready.
            ModelError: the templates differ and that is not allowed.
        """
        if self._foreign is not None:
            self._foreign.check(policy_tokenizer, allow_template_mismatch)
            return
        where = ", ".join(self.urls)
        try:
            health = self._connect().ready()
            if health.status != "ok":
                raise ConfigError(f"the reward service at {where} is not ready: {'; '.join(health.reasons)}")
            info = self._connect().info()
        except ServiceError as error:
            raise ConfigError(f"the reward service cannot be used: {error}") from error
        self._versions.add(_version(info))
        own = hashlib.sha256(policy_tokenizer.get_chat_template().encode()).hexdigest()
        if info.template_sha256 != own and not allow_template_mismatch:
            raise ModelError(
                f"the chat template of the reward model {info.model} at {where} (sha256 {info.template_sha256[:12]}) "
                f"is not the policy's (sha256 {own[:12]}), so completions would be scored in another form than they "
                "were written in; serve a reward model with the policy's template, or set allow_template_mismatch=True"
            )

    def submit(self, samples: Sequence[Sample], deadline_s: float) -> Callable[[], Scores]:
        """Send samples to the service, and return a function that waits for their scores."""
        if self._foreign is not None:
            return self._foreign.submit(samples, deadline_s)
        items = [
            ScoreItem(
                id=str(i),
                prompt=[Message(role=m["role"], content=m["content"]) for m in sample.row.messages],
                completion=sample.completion,
            )
            for i, sample in enumerate(samples)
        ]
        future = self._connect().submit(items, deadline_s=deadline_s)

        def wait() -> Scores:
            response = future.result()
            if response.model:  # somebody answered
                self._versions.add(_version(response))
            return [r.error if r.score is None else r.score for r in response.results]

        return wait

    def not_ready(self, rows: Sequence[Row]) -> list[str]:
        """Return why the service cannot score now, by its /readyz; a server that is not ours is simply asked."""
        return [] if self._foreign is not None else reasons_not_ready(self._connect())

    def versions(self) -> set[str]:
        """Return who has given scores since this was asked last; of a server that is not ours nothing is known."""
        seen, self._versions = self._versions, set()
        return seen

    def close(self) -> None:
        """Close the connection; it opens again by itself when needed."""
        if self._foreign is not None:
            self._foreign.close()
        if self._client is not None:
            self._client.close()
            self._client = None

    def _connect(self) -> RewardClient:
        if self._client is None:
            try:
                self._client = RewardClient(self.urls, token=self.token, model=self.model)
            except ValueError as error:
                raise ConfigError(f"the reward service cannot be asked: {error}") from error
        return self._client


class LocalRewardModel:
    """A sequence classifier with one label, in this process.

    Args:
        model: for example of `AutoModelForSequenceClassification`.
        tokenizer: its tokenizer, with a chat template.
        chunk_size: sequences in one forward pass.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, chunk_size: int = 16) -> None:
        if getattr(model.config, "num_labels", 1) != 1:
            raise ModelError(
                f"the reward model has {model.config.num_labels} labels, a score needs one; load it with num_labels=1"
            )
        rows = model.get_input_embeddings().num_embeddings
        if len(tokenizer) > rows:
            raise ModelError(
                f"the reward model has embeddings for {rows} tokens, its tokenizer {len(tokenizer)}: they do not "
                "belong together; pass the reward model's own tokenizer as reward_processing_class"
            )
        self.is_here = True
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = check_tokenizer(tokenizer)
        self.chunk_size = chunk_size
        if model.config.pad_token_id is None:
            model.config.pad_token_id = _free_token_id(self.tokenizer)

    def check(self, policy_tokenizer: PreTrainedTokenizerBase, allow_template_mismatch: bool) -> None:
        """Compare the chat templates.

        Raises:
            ModelError: they differ and that is not allowed.
        """
        same = self.tokenizer.get_chat_template() == policy_tokenizer.get_chat_template()
        if not same and not allow_template_mismatch:
            raise ModelError(
                "the chat template of reward_processing_class is not the policy's; use one template for both, or set "
                "allow_template_mismatch=True"
            )

    def submit(self, samples: Sequence[Sample], deadline_s: float) -> Callable[[], Scores]:
        """Return a function that scores the samples: the forward passes share the trainer's device."""
        return lambda: self._score(samples)

    def versions(self) -> set[str]:
        """Return a name for these weights and this template: a hash over the first numbers of each parameter."""
        digest = hashlib.sha256(self.tokenizer.get_chat_template().encode())
        for name, parameter in sorted(self.model.named_parameters()):
            first = parameter.detach().flatten()[:64].float().cpu()
            digest.update(f"{name} {tuple(parameter.shape)} {first.tolist()}".encode())
        return {f"{type(self.model).__name__} {digest.hexdigest()[:12]}"}

    def close(self) -> None:
        """Nothing to let go of."""

    @torch.no_grad()
    def _score(self, samples: Sequence[Sample]) -> Scores:
        device = next(self.model.parameters()).device
        scores: Scores = []
        for start in range(0, len(samples), self.chunk_size):
            encoded = [self._encode(sample) for sample in samples[start : start + self.chunk_size]]
            width = max(len(ids) for ids in encoded)
            pad_id = self.model.config.pad_token_id  # the model scores the last token that differs from it
            ids = torch.tensor([row + [pad_id] * (width - len(row)) for row in encoded], device=device)
            mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in encoded], device=device)
            logits = self.model(input_ids=ids, attention_mask=mask).logits.float()
            scores.extend(logits[:, 0].tolist())
        return scores

    def _encode(self, sample: Sample) -> list[int]:
        messages = [*sample.row.messages, {"role": "assistant", "content": sample.completion}]
        # As the reward service does: what spells a control token is text, so no completion ends its own turn.
        encoded = self.tokenizer.apply_chat_template(messages, sanitize_control_tokens=True, return_dict=True)
        ids = list(encoded["input_ids"])
        limit = getattr(self.model.config, "max_position_embeddings", None) or len(ids)
        return ids[-limit:]


def _version(scorer: RewardServiceInfo | ScoreResponse) -> str:
    template = scorer.template_sha256[:12] or "-"
    return f"{scorer.model} at revision {scorer.revision or '-'} with template {template}"


def _free_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return a token to pad with that no conversation ends with, as the reward service does."""
    turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
    ending = tokenizer.apply_chat_template(turns, return_dict=False)[-1]
    free = next((token for token in (tokenizer.pad_token_id, *tokenizer.all_special_ids) if token != ending), None)
    if free is None:
        raise ModelError("the reward model has no pad token, nor its tokenizer one to spare; set config.pad_token_id")
    return free


def as_reward_model(
    given: Any, tokenizer: PreTrainedTokenizerBase, device: torch.device, chunk_size: int
) -> RewardModel:
    """Return what a user passed as `reward_model` in the form the trainer uses.

    Raises:
        ConfigError: it is neither a sequence classifier nor something with `submit`.
    """
    if isinstance(given, PreTrainedModel):
        return LocalRewardModel(given.to(device), tokenizer, chunk_size)
    if all(callable(getattr(given, name, None)) for name in ("check", "submit", "close")):
        return given
    raise ConfigError(
        f"reward_model is {given!r}; pass an AutoModelForSequenceClassification with num_labels=1, or "
        "RemoteRewardModel(url)"
    )
