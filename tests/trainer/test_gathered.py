"""Ways to distribute a model from which it could not be gathered are refused; a whole model generates as it is.

What gathering does is seen by two processes in test_distributed.py.
"""

from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType

from trainer.errors import ConfigError
from trainer.gathered import Gathered


def fake_accelerator(kind: DistributedType, is_fsdp2: bool = False, **plugins) -> SimpleNamespace:
    state = SimpleNamespace(distributed_type=kind, **plugins)
    return SimpleNamespace(state=state, is_fsdp2=is_fsdp2, device=torch.device("cpu"))


@pytest.mark.parametrize(
    ("accelerator", "why"),
    [
        (fake_accelerator(DistributedType.FSDP), "FSDP version 1 is not supported; set fsdp_version: 2"),
        (
            fake_accelerator(DistributedType.DEEPSPEED, deepspeed_plugin=SimpleNamespace(zero_stage=3)),
            "ZeRO stage 3 is not supported: .* set zero_stage: 2, or use FSDP version 2",
        ),
        (
            fake_accelerator(DistributedType.FSDP, True, fsdp_plugin=SimpleNamespace(cpu_ram_efficient_loading=True)),
            "fsdp_cpu_ram_efficient_loading=true leaves all processes but one without weights",
        ),
    ],
)
def test_what_cannot_be_gathered_is_refused_with_the_way_out(accelerator, why, policy):
    with pytest.raises(ConfigError, match=why):
        Gathered(accelerator, policy)


def test_a_model_that_is_not_sharded_generates_itself(policy):
    with Gathered(Accelerator(cpu=True), policy).whole(policy) as model:
        assert model is policy
