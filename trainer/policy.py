"""The policy and its frozen reference: loading, adapters, dropout, length."""

import copy
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from trainer.errors import ConfigError

__all__ = ["load_policy", "load_reference", "longest_sequence", "prepared_reference", "without_dropout"]


def load_policy(model: PreTrainedModel | str, ref_model: PreTrainedModel | str | None, peft_config: Any) -> Any:
    """Return the model to train: loaded where it is named, wrapped in an adapter where one is configured.

    Raises:
        ConfigError: model and reference are one object, or a reference is given besides an adapter.
    """
    if model is ref_model and not isinstance(model, str):
        raise ConfigError(
            "model and ref_model are the same object, so the reference would move with the policy; leave ref_model out "
            "and a frozen copy is made"
        )
    if isinstance(model, str):
        model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    if peft_config is None:
        return model
    if ref_model is not None:
        raise ConfigError("ref_model besides peft_config: the reference is the model without its adapter; leave it out")
    from peft import get_peft_model  # only where an adapter is asked for: importing it takes a second

    return get_peft_model(model, peft_config)


def load_reference(policy: Any, ref_model: PreTrainedModel | str | None) -> PreTrainedModel | None:
    """Return the frozen reference; None where it is the policy with its adapter switched off."""
    if hasattr(policy, "peft_config") and ref_model is None:
        return None
    if isinstance(ref_model, str):
        ref_model = AutoModelForCausalLM.from_pretrained(ref_model, dtype=policy.dtype)
    reference = copy.deepcopy(policy) if ref_model is None else ref_model
    return reference.eval().requires_grad_(False)


def prepared_reference(accelerator: Accelerator, model: PreTrainedModel, is_own: bool) -> Any:
    """Return the frozen reference as the accelerator has it go forward.

    In mixed bfloat16 the linear layers of one that is nobody else's are stored in bfloat16: they are cast no more, and
    compute the same to the last bit. A weight that has other uses (a tied head's) stays as it is.
    """
    is_sharded = accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)  # one dtype only
    if is_own and accelerator.mixed_precision == "bf16" and not is_sharded:
        others = {id(p) for m in model.modules() if type(m) is not nn.Linear for p in m.parameters(recurse=False)}
        for layer in (module for module in model.modules() if type(module) is nn.Linear):
            for parameter in layer.parameters():
                if id(parameter) not in others:
                    parameter.data = parameter.data.bfloat16()
    return accelerator.prepare_model(model, evaluation_mode=True)


def without_dropout(model: nn.Module | None) -> None:
    """Set every dropout probability to 0: those of modules, and those that attention layers keep as numbers."""
    for module in model.modules() if model is not None else ():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def longest_sequence(model: Any) -> int:
    """Return how many tokens the model's positions hold."""
    config = model.config
    return int(getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or 2**20)
