"""The model itself: a Hugging Face sequence classifier, of one label where it scores. Uses torch, as prefix.py does."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
from transformers.modeling_layers import GenericForSequenceClassification
from transformers.utils import cached_file

from reward_service.errors import EncodingRefused, ModelRefused
from reward_service.golden import TOLERANCE, largest_move, read_golden
from reward_service.prefix import WORTH_TOKENS, SharedPrefix
from reward_service.scorer import FORWARD_ERRORS, Encoded
from reward_service.self_test import self_test
from reward_service.settings import RewardSettings
from wire.base import Message, Prompt
from wire.golden import GOLDEN_FILE

SAMPLED_BYTES = 1 << 20
WIDTH_STEP = 8
# On a CPU just enough that a pass's fixed cost does not show: what is larger no longer fits its caches.
CPU_BATCH_TOKENS, GPU_BATCH_TOKENS = 1024, 32768


@dataclass(frozen=True)
class CheckedModel:
    """A model whose configuration and tokenizer can serve; its weights are not loaded yet."""

    settings: RewardSettings
    place: str
    config: Any
    tokenizer: Any
    template: str
    revision: str

    @cached_property
    def template_sha256(self) -> str:
        """Hash of the chat template as UTF-8, hex."""
        return hashlib.sha256(self.template.encode()).hexdigest()

    @cached_property
    def labels(self) -> list[str]:
        """Names of the labels, in the order of the model's numbers; a reward model has one."""
        return [str(self.config.id2label[index]) for index in range(self.config.num_labels)]

    @cached_property
    def device(self) -> str:
        """Where it computes."""
        return device_of(self.settings)

    @cached_property
    def dtype(self) -> str:
        """What it computes in; the head of a decoder always computes in float32."""
        if self.settings.dtype != "auto":
            return self.settings.dtype
        return "bfloat16" if has_bfloat16(self.device) else "float32"

    @cached_property
    def max_length(self) -> int:
        """Tokens that are read of one item at most: the model's own limit, or the settings' where that is less."""
        text_config = self.config.get_text_config()
        limits = (self.settings.max_length, getattr(text_config, "max_position_embeddings", None))
        return min([limit for limit in limits if limit], default=self.tokenizer.model_max_length)

    def golden_file(self) -> Path | None:
        """Return where its golden pairs are, beside the weights in its folder or on the hub; None where it has none."""
        try:
            return Path(cached_file(self.place, GOLDEN_FILE, revision=self.settings.revision))
        except OSError:  # what transformers raises where there is no such file
            return None

    def load(self) -> "RewardModel":
        """Return the model with its weights.

        Raises:
            ModelRefused: there are no usable safetensors weights, or none for the head.
        """
        settings = self.settings
        if settings.num_threads:
            torch.set_num_threads(settings.num_threads)
        try:
            model, loading = AutoModelForSequenceClassification.from_pretrained(
                self.place,
                config=self.config,
                revision=settings.revision,
                dtype=self.dtype,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
            model = model.eval().to(self.device)
        except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
            raise ModelRefused(
                f"the weights of '{self.place}' cannot be loaded: {_first_line(error)}; "
                "a complete model in safetensors format is needed, and a device that has room for it"
            ) from error
        if missing := sorted(loading["missing_keys"]):
            raise ModelRefused(
                f"'{self.place}' has no weights for {', '.join(missing[:3])}: its scores would be random; "
                "serve a model that was trained as a reward model"
            )
        _head_in_float32(model)
        return RewardModel(model, self)


class RewardModel:
    """A loaded reward model; used by one thread at a time."""

    def __init__(self, model: Any, checked: CheckedModel) -> None:
        self._model = model
        self._checked = checked
        self._tokenizer = checked.tokenizer
        self._tokenizer.truncation_side = "left"
        self._pad_id = self._pad_token_id()
        self._is_causal = _is_causal(model)
        self._prefix = self._shared_prefix() if self._is_causal and checked.settings.share_prefix else None
        file = checked.golden_file()
        self._golden = read_golden(file) if file else []

    def encode(self, prompt: Prompt, completion: str) -> Encoded:
        """Return prompt and completion in the model's own chat template.

        Text that spells a control token ("<|im_end|>") is encoded as text, so no completion can end its own turn. An
        item longer than the model reads loses its beginning: a reward model reads its number off the end.

        Raises:
            EncodingRefused: the template does not take these messages.
        """
        turns = [Message(role="user", content=prompt)] if isinstance(prompt, str) else prompt
        return self.encode_messages([*turns, Message(role="assistant", content=completion)])

    def encode_messages(self, messages: Sequence[Message]) -> Encoded:
        """Return a conversation in the model's own chat template, as `encode` does.

        Raises:
            EncodingRefused: the template does not take these messages, or there is none.
        """
        if not self._checked.template:
            raise EncodingRefused("this model has no chat template; send text to /classify instead of messages")
        turns = [dict(message) for message in messages]
        try:
            ids = self._tokenizer.apply_chat_template(turns, sanitize_control_tokens=True, return_dict=False)
        except (TemplateError, ValueError, TypeError, KeyError) as error:
            raise EncodingRefused(
                "the reward model's chat template does not take this conversation "
                f"({type(error).__name__}, {len(turns)} messages); most take user and assistant in turns"
            ) from error
        return Encoded(ids[-self._checked.max_length :], len(ids))

    def encode_text(self, text: str, special_tokens: bool) -> Encoded:
        """Return a text as it is: no chat template, and control tokens that it spells are control tokens.

        A long one loses its beginning, as a conversation does.

        Raises:
            EncodingRefused: nothing is left of it to read.
        """
        ids = self._tokenizer(text, add_special_tokens=special_tokens, verbose=False)["input_ids"]
        if not ids:
            raise EncodingRefused("the text has no token; send one that is not empty")
        num_tokens, longest = len(ids), self._checked.max_length
        if num_tokens > longest:  # by the tokenizer, which keeps what it put around the text
            cut = {"add_special_tokens": special_tokens, "truncation": True, "max_length": longest}
            ids = self._tokenizer(text, **cut)["input_ids"]
        return Encoded(ids, num_tokens)

    def score(self, rows: Sequence[list[int]]) -> Sequence[float | list[float]]:
        """Return the model's number for each row, computed in one batch padded on the right; of several labels, all."""
        numbers = self._logits(rows, self._prefix)
        return numbers if len(self._checked.labels) > 1 else [row[0] for row in numbers]

    def _logits(self, rows: Sequence[list[int]], prefix: SharedPrefix | None) -> list[list[float]]:
        shared = prefix.of(rows) if prefix else []
        ends = [row[len(shared) :] for row in rows]
        width = self._width(max(map(len, ends)), self._checked.max_length - len(shared))
        ids = torch.tensor([end + [self._pad_id] * (width - len(end)) for end in ends], device=self._model.device)
        given: dict[str, Any] = {"input_ids": ids, **self._no_cache()}
        if not self._is_causal:
            mask = [[1] * len(end) + [0] * (width - len(end)) for end in ends]
            given["attention_mask"] = torch.tensor(mask, device=self._model.device)
        with torch.inference_mode():
            if prefix and shared:
                given |= {"past_key_values": prefix.cache(shared, len(rows)), "use_cache": True}
            logits = self._model(**given).logits
        numbers: list[list[float]] = logits.float().tolist()
        return numbers

    def self_test(self) -> list[str]:
        """Return what is wrong with the model's answers; nothing where all is well."""
        return self_test(self, self._golden, self._dtype)

    @property
    def num_kept(self) -> int | None:
        """Tokens that every text begins with and that are kept; None where rows share no beginning at all."""
        return None if self._prefix is None else self._prefix.num_kept

    @property
    def pad_token(self) -> tuple[int, str]:
        """Id and text of the token that rows are padded with."""
        return self._pad_id, self._tokenizer.decode([self._pad_id])

    @property
    def ending(self) -> tuple[int, str] | None:
        """Id and text of the token that ends a turn, or of another control token; None where there is none."""
        text = self._tokenizer.eos_token or next(iter(self._tokenizer.all_special_tokens), None)
        return (self._tokenizer.convert_tokens_to_ids(text), text) if text else None

    @property
    def reads_conversations(self) -> bool:
        """Whether it has a chat template."""
        return bool(self._checked.template)

    @property
    def _dtype(self) -> str:
        return str(self._model.dtype).removeprefix("torch.")

    def _shared_prefix(self) -> SharedPrefix | None:
        """Return what shares beginnings, if two answers to one question score the same where it is computed once.

        The template's own beginning, a system turn for example, is in it already.
        """
        question = "Is this so? " * (WORTH_TOKENS // 3)
        try:
            long = [self._example(question, answer).ids for answer in ("Yes.", "No, it is not.")]
            alone, shared = (self._logits(long, one) for one in (None, SharedPrefix(self._model, self._pad_id)))
            moves = [largest_move(*both) for both in zip(alone, shared, strict=True)]
            if max(moves) > TOLERANCE[self._dtype]:
                return None
            prefix = SharedPrefix(self._model, self._pad_id)
            with torch.inference_mode():
                prefix.keep([self._example(question, "Yes.").ids for question in ("Hello", "Bye")])
        except (EncodingRefused, *FORWARD_ERRORS):
            return None
        return prefix

    def _width(self, longest: int, limit: int) -> int:
        """Return the width of a batch: in bfloat16, a CPU keeps a kernel per shape, so few shapes are wanted."""
        if self._model.device.type != "cpu" or self._model.dtype != torch.bfloat16:
            return longest
        return max(longest, min(-(-longest // WIDTH_STEP) * WIDTH_STEP, limit))

    def _example(self, question: str = "Hello", answer: str = "Hi") -> Encoded:
        if self.reads_conversations:
            return self.encode(question, answer)
        return self.encode_text(f"{question} {answer}", True)

    def _pad_token_id(self) -> int:
        """Return the id to pad with, and tell it to the model, which scores the last token that differs from it."""
        text_config = self._model.config.get_text_config()
        if text_config.pad_token_id is None:
            ending = self._example().ids[-1]
            candidates = [self._tokenizer.pad_token_id, *self._tokenizer.all_special_ids]
            free = next((token for token in candidates if token not in (None, ending)), None)
            if free is None:
                raise ModelRefused(
                    f"'{self._checked.place}' has no pad token, and its tokenizer no special token that could "
                    "be one; set pad_token_id in its config.json"
                )
            text_config.pad_token_id = free
        return int(text_config.pad_token_id)

    def _no_cache(self) -> dict[str, bool]:
        # An encoder's forward does not know the argument; a decoder would keep keys and values that nobody reads.
        return {"use_cache": False} if getattr(self._model.config.get_text_config(), "use_cache", False) else {}


def device_of(settings: RewardSettings) -> str:
    """Return the device that the settings mean."""
    if settings.device != "auto":
        return settings.device
    return "cuda" if torch.cuda.is_available() else "cpu"


def batch_tokens(settings: RewardSettings) -> int:
    """Return the tokens of one forward pass, padding among them."""
    default = CPU_BATCH_TOKENS if device_of(settings) == "cpu" else GPU_BATCH_TOKENS
    return settings.batch_tokens or default


def has_bfloat16(device: str) -> bool:
    """Return whether a device multiplies bfloat16 by itself; where it is emulated, it is slower than float32."""
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device != "cpu":
        return False
    return any(torch.cpu.get_capabilities().get(name, False) for name in ("avx512_bf16", "amx_bf16", "arm_bf16"))


def _is_causal(model: Any) -> bool:
    """Return whether no token of a model sees what stands behind it: padding on the right then needs no mask."""
    config = model.config.get_text_config()
    looks_ahead = getattr(config, "use_bidirectional_attention", False) or not getattr(config, "is_causal", True)
    return isinstance(model, GenericForSequenceClassification) and not looks_ahead


def _head_in_float32(model: Any) -> None:
    """Have a decoder's head compute in float32, so that two texts tie only where the model finds them equal."""
    head = getattr(model, "score", None)
    if isinstance(head, torch.nn.Linear) and head.weight.dtype != torch.float32:
        head.float()
        head.register_forward_pre_hook(lambda _, hidden: tuple(one.float() for one in hidden))


def check_model(settings: RewardSettings, named: str | None = None) -> CheckedModel:
    """Return a model's configuration and tokenizer, once it is sure that they can serve. Loads no weights.

    Args:
        settings: those of the service.
        named: folder or hub id, one of those in the settings; the first one by default.

    Raises:
        ModelRefused: no such model, another number of labels than one, no chat template, or code of its own.
    """
    name = next(iter(settings.named_models().values())) if named is None else named
    place = Path(name)
    if not place.is_dir() and (place.is_absolute() or name.startswith(".") or name.count("/") > 1):
        raise ModelRefused(f"no folder '{name}'; --model takes a folder of a Hugging Face model, or a hub id")
    try:
        config = AutoConfig.from_pretrained(name, revision=settings.revision, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(name, revision=settings.revision, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelRefused(
            f"'{name}' cannot be read as a Hugging Face model: {_first_line(error)}; it needs config.json and a "
            "tokenizer, and code of its own is not run"
        ) from error
    try:
        template = tokenizer.get_chat_template()
    except ValueError as error:
        if config.num_labels > 1:  # a plain classifier, which reads text
            return CheckedModel(settings, name, config, tokenizer, "", _revision(config, settings, place))
        raise ModelRefused(
            f"the tokenizer of '{name}' has no chat template; save it with `chat_template` set to the one that the "
            "reward model was trained with"
        ) from error
    return CheckedModel(settings, name, config, tokenizer, template, _revision(config, settings, place))


def _revision(config: Any, settings: RewardSettings, place: Path) -> str:
    return getattr(config, "_commit_hash", None) or settings.revision or _folder_revision(place)


def _folder_revision(folder: Path) -> str:
    """Return a short hash of a folder's weights: names, sizes, first and last MiB (all of them may be too much)."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            digest.update(file.read(SAMPLED_BYTES))
            file.seek(max(size - SAMPLED_BYTES, 0))
            digest.update(file.read())
    return digest.hexdigest()[:12]


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
