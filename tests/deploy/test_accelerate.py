"""deploy/accelerate: what `accelerate launch` makes of each file, as far as a machine without accelerators shows it."""

from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env

FOLDER = Path(__file__).parents[2] / "deploy" / "accelerate"
KINDS = {"ddp": "MULTI_GPU", "fsdp": "FSDP", "zero2": "DEEPSPEED"}


def launched(name: str):
    arguments = ["--config_file", str(FOLDER / f"{name}.yaml"), "--module", "trainer.cli", "train", "run.yaml"]
    arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args(arguments))
    return arguments


def test_every_file_has_its_kind():
    assert {path.stem for path in FOLDER.iterdir()} == set(KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_accelerate_reads_the_file(name):
    config = load_config_from_file(str(FOLDER / f"{name}.yaml"))
    assert (config.distributed_type.value, config.num_processes) == (KINDS[name], 2)


def test_the_processes_of_fsdp_are_told_to_shard_by_its_second_version_with_whole_weights_everywhere():
    told = prepare_multi_gpu_env(launched("fsdp"))
    assert (told["ACCELERATE_USE_FSDP"], told["FSDP_VERSION"]) == ("true", "2")
    assert (told["FSDP_CPU_RAM_EFFICIENT_LOADING"], told["FSDP_STATE_DICT_TYPE"]) == ("false", "FULL_STATE_DICT")


def test_the_processes_of_ddp_are_told_of_no_sharding():
    assert "ACCELERATE_USE_FSDP" not in prepare_multi_gpu_env(launched("ddp"))


def test_the_processes_of_deepspeed_are_told_to_leave_weights_whole():
    # What follows needs DeepSpeed itself, which needs a compiler and a GPU.
    arguments = launched("zero2")
    assert (arguments.use_deepspeed, arguments.zero_stage, arguments.gradient_accumulation_steps) == (True, 2, 1)
