"""Settings of the reward service: environment `REWARD_SERVICE_*`, or a YAML file."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from service.settings import ServiceSettings

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
NAMED = re.compile(r"([\w.\-]+)=(.+)", re.DOTALL)


class RewardSettings(ServiceSettings):
    """What the reward service is started with."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, env_prefix="REWARD_SERVICE_")

    port: int = Field(default=8002, ge=0, le=65535, description="TCP port; 0 takes a free one")
    model: str | None = Field(
        default=None, min_length=1, description="folder of a sequence classifier with one label, or its hub id"
    )
    models: dict[str, str] = Field(
        default_factory=dict, description="several of them by name; a request says which, or gets the first"
    )
    revision: str | None = Field(default=None, description="branch, tag or commit of a hub id; the newest by default")
    device: str = Field(default="auto", description="cpu, cuda, cuda:1, ...; auto takes a GPU where there is one")
    dtype: Dtype = Field(default="auto", description="auto is bfloat16 where the CPU or GPU has it, else float32")
    max_length: int | None = Field(
        default=None, ge=8, description="tokens read of one item, the last ones; by default all that the model can"
    )
    batch_tokens: int | None = Field(
        default=None,
        ge=1,
        description="tokens in one forward pass, padding among them; by default 1024, on a GPU 32768",
    )
    share_prefix: bool = Field(
        default=True, description="whether the beginning that all rows of a batch share is computed once, in a decoder"
    )
    waiting_items: int = Field(default=16384, ge=1, description="items accepted and not yet answered; more get a 429")
    num_threads: int | None = Field(default=None, ge=1, description="CPU threads of the model; torch's own by default")

    @model_validator(mode="after")
    def _has_a_model(self) -> Self:
        if not self.model and not self.models:
            raise ValueError("model: no model to serve; give --model a folder or hub id")
        return self

    def named_models(self) -> dict[str, str]:
        """Return folder or hub id of each model by its name; the name of a model that was given none is the same."""
        return ({self.model: self.model} if self.model else {}) | self.models


def by_name(given: Sequence[str]) -> dict[str, str]:
    """Return what `--model` was given, each as PATH or NAME=PATH, as folder or hub id by name.

    >>> by_name(["helpful=models/a", "org/b"])
    {'helpful': 'models/a', 'org/b': 'org/b'}

    Raises:
        ValueError: one name is given twice.
    """
    models: dict[str, str] = {}
    for one in given:
        match = None if Path(one).exists() else NAMED.fullmatch(one)
        name, place = match.groups() if match else (one, one)
        if name in models:
            raise ValueError(f"--model gives the name '{name}' twice; give each model a name of its own")
        models[name] = place
    return models
