"""A sharded model, whole on every process for a while: generation then needs no other process."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from trainer.errors import ConfigError

__all__ = ["Gathered"]


class Gathered:
    """A model as it generates. Where it gets sharded (FSDP2), a plain copy, which holds weights only while it is used.

    A sharded model's forward pass gathers each layer from all processes, so all of them must go through it equally
    often. Completions end at different lengths, and generation reads weights between the passes: both want a plain
    model. While the copy is used, each process holds all weights once more.

    Args:
        accelerator: says how the model will be distributed.
        model: not sharded yet.

    Raises:
        ConfigError: it would be distributed in a way from which it cannot be gathered.
    """

    def __init__(self, accelerator: Accelerator, model: nn.Module) -> None:
        state = accelerator.state
        is_fsdp = state.distributed_type == DistributedType.FSDP
        if is_fsdp and not accelerator.is_fsdp2:
            raise ConfigError("FSDP version 1 is not supported; set fsdp_version: 2 in accelerate's configuration")
        if state.distributed_type == DistributedType.DEEPSPEED and state.deepspeed_plugin.zero_stage == 3:
            raise ConfigError(
                "DeepSpeed ZeRO stage 3 is not supported: its weights are sharded while completions are generated; set "
                "zero_stage: 2, or use FSDP version 2"
            )
        if is_fsdp and state.fsdp_plugin.cpu_ram_efficient_loading:
            raise ConfigError(
                "fsdp_cpu_ram_efficient_loading=true leaves all processes but one without weights, and the policy "
                "generates before it is sharded; set it to false in accelerate's configuration"
            )
        self._copy = copy.deepcopy(model).requires_grad_(False) if is_fsdp else None
        self._release()
        for module in (self._copy, model) if is_fsdp else ():
            module.to(accelerator.device)  # `Trainer` leaves it where it is until training begins

    @contextmanager
    def whole(self, model: nn.Module) -> Iterator[Any]:
        """Yield a model that generates by itself: this one, or the copy with its weights. All processes call this."""
        if self._copy is None or not isinstance(model, FSDPModule):
            yield model
            return
        try:
            with torch.no_grad():
                for mine, theirs in zip(self._copy.parameters(), model.parameters(), strict=True):
                    mine.data = theirs.full_tensor() if isinstance(theirs, DTensor) else theirs.detach()
            self._switch_adapters(model)
            yield self._copy
        finally:
            self._release()

    def _switch_adapters(self, model: nn.Module) -> None:
        """Switch the copy's adapters on or off, as the model's are."""
        if not hasattr(model, "peft_config"):
            return
        from peft.tuners.tuners_utils import BaseTunerLayer  # only where there is an adapter: it takes a second

        layers = [[m for m in each.modules() if isinstance(m, BaseTunerLayer)] for each in (self._copy, model)]
        for mine, theirs in zip(*layers, strict=True):
            mine.enable_adapters(not theirs.disable_adapters)

    def _release(self) -> None:
        for parameter in self._copy.parameters() if self._copy is not None else ():
            parameter.data = parameter.data.new_empty(0)
