"""The configuration: what it refuses, and that it survives being written, read and typed on a command line."""

import dataclasses
import json

import pytest
from transformers import HfArgumentParser

from trainer import CGPOConfig
from trainer.errors import ConfigError

OWN = [f for f in dataclasses.fields(CGPOConfig) if f.name in CGPOConfig.__annotations__]


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"rlhf_optimizer": "ppo"}, "no rlhf_optimizer named 'ppo'; there are: codpo, constrained_grpo, crpg, crraft"),
        ({"rlhf_optimizer": "codpo", "k": 1}, "k=1: codpo compares the completions of a prompt; set k to 2 or more"),
        ({"rlhf_optimizer": "gdpo", "k": 1}, "k=1: gdpo compares the completions of a prompt; set k to 2 or more"),
        ({"violation_target": 1.5}, "violation_target=1.5: must lie between 0 and 1"),
        ({"softmin_sharpness": 0.0}, "softmin_sharpness=0.0: must be greater than 0"),
        ({"advantage_baseline": "mean"}, "advantage_baseline='mean': must be batch, prompt or leave_one_out"),
        ({"k": 0}, "k=0: must be at least 1"),
        ({"max_new_tokens": 0}, "max_new_tokens=0: must be at least 1"),
        ({"kl_threshold": 0.0}, "kl_threshold=0.0: must be greater than 0"),
        ({"temperature": float("nan")}, "temperature=nan: must be greater than 0"),
        ({"judge_outage_timeout": -1.0}, "judge_outage_timeout=-1.0: must be 0 or greater"),
        ({"max_unknown_fraction": 5.0}, "max_unknown_fraction=5.0: must lie between 0 and 1"),
        ({"fp16": True}, "fp16=True: .* set bf16=True, or train in float32"),
        ({"remove_unused_columns": True}, "remove_unused_columns=True would hide the row's columns from the judges"),
    ],
)
def test_a_value_that_cannot_work_is_named_with_what_can(build_config, values, why):
    with pytest.raises(ConfigError, match=why):
        build_config(**values)


def test_a_config_survives_its_dictionary(build_config):
    config = build_config(rlhf_optimizer="codpo", lamb=0.5, missing_eos_penalty=1.0, max_length=99)
    stored = json.loads(json.dumps(config.to_dict()))
    known = {f.name for f in dataclasses.fields(CGPOConfig) if f.init}
    again = CGPOConfig(**{name: value for name, value in stored.items() if name in known})
    assert {f.name: getattr(again, f.name) for f in OWN} == {f.name: getattr(config, f.name) for f in OWN}


def test_every_field_of_its_own_has_a_help_text():
    assert [f.name for f in OWN if not f.metadata.get("help")] == []
    assert len(OWN) >= 20


def test_a_config_can_be_typed_on_a_command_line(tmp_path):
    arguments = f"--output_dir {tmp_path} --rlhf_optimizer crraft --k 8 --kl_threshold 7.5 --max_length 512 --use_cpu"
    extra = " --missing_eos_penalty 1.5 --log_completions false --disable_dropout no --clamp_kl_factor"
    (config,) = HfArgumentParser(CGPOConfig).parse_args_into_dataclasses((arguments + extra).split())
    found = (config.rlhf_optimizer, config.k, config.kl_threshold, config.max_length, config.missing_eos_penalty)
    assert found == ("crraft", 8, 7.5, 512, 1.5)
    assert (config.log_completions, config.disable_dropout, config.clamp_kl_factor) == (False, False, True)
    assert (config.judge_deadline, config.eval_k) == (60.0, 1)


def test_processes_agree_on_the_order_of_the_rows(build_config):
    assert build_config(seed=7).data_seed == 7
    assert build_config(seed=7, data_seed=3).data_seed == 3
