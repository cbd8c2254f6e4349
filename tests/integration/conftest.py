"""Real services as processes, and tiny models in folders, for tests that use the product as a user does."""

import importlib.util
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM, LlamaForSequenceClassification

from trainer.services import judge_service, reward_service


def _parts():
    """The builders of the trainer's tests; a conftest of another folder is not importable by name."""
    spec = importlib.util.spec_from_file_location("parts", Path(__file__).parents[1] / "trainer" / "conftest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def parts():
    """The builders of the trainer's tests."""
    return _parts()


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory):
    """A policy and a reward model of a few thousand parameters, saved as Hugging Face folders."""
    parts, folder = _parts(), tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    models = {
        "policy": LlamaForCausalLM(parts._config()),
        "reward": LlamaForSequenceClassification(parts._config(num_labels=1)),
    }
    for name, model in models.items():
        model.save_pretrained(folder / name)
        parts._tokenizer().save_pretrained(folder / name)
    return folder / "policy", folder / "reward"


@pytest.fixture(scope="module")
def services(tiny_folders):
    """The URLs of a judge service and a reward service that run for the tests of one file, and no longer."""
    with judge_service(arguments=["--no-require-sandbox"]) as judges, reward_service(tiny_folders[1]) as rewards:
        yield judges, rewards


@pytest.fixture(scope="module")
def code_service():
    """The URL of a judge service that runs programs."""
    with judge_service() as url:
        yield url
