"""Which LLM servers there are, and which judge asks which."""

import hashlib
import json
import os
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

BackendName = Literal["systemone", "decisions", "chat_logprobs", "chat_schema", "classify"]


class LlmUpstream(BaseModel):
    """A server that answers the questions of LLM judges."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(
        pattern=r"^https?://[^\s?#]+$", description="base URL as OpenAI's clients take it, mostly with /v1 at its end"
    )
    backend: BackendName = Field(description="the shape in which it is asked")
    model: str = Field(min_length=1, description="model id that is asked for")
    revision: str = Field(default="", description="its revision; part of every verdict's version")
    answers_as: str | None = Field(
        default=None, description="model id that its answers carry, where that differs from `model`"
    )
    key_env: str | None = Field(default=None, description="environment variable that holds the API key")
    key_file: Path | None = Field(
        default=None, description="file whose first word is the API key, where `key_env` has none"
    )
    concurrency: int = Field(default=16, ge=1, le=1024, description="requests under way at once")
    tokens_per_minute: int | None = Field(default=None, ge=1, description="tokens sent and answered in a minute")
    retries: int = Field(default=4, ge=0, le=20, description="times that a failed request is sent again")
    timeout_s: float = Field(default=30.0, gt=0, le=600, description="longest wait for one answer, seconds")
    questions_per_request: int = Field(default=32, ge=1, le=64, description="questions in one typed request")
    note: str = Field(default="", max_length=400, description="shown at its judges in GET /v1/judges")

    def headers(self) -> dict[str, str]:
        """Return the headers of a request; the key is read each time, so it can be renewed.

        Raises:
            OSError: the key's file cannot be read.
        """
        key = os.environ.get(self.key_env, "") if self.key_env else ""
        if not key and self.key_file is not None:
            key = "".join(self.key_file.read_text(encoding="utf-8").split()[:1])
        return {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})

    def identity(self) -> str:
        """Return what decides the answers: backend, model, revision. The address does not."""
        parts = [self.backend, self.model, self.revision, self.answers_as or ""]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def is_answer_of(self, model: str) -> bool:
        """Return whether an answer that carries this model id comes from the configured model."""
        expected = self.answers_as or self.model
        return model == expected or model == f"{expected}@{self.revision or 'main'}"


class LlmSettings(BaseModel):
    """Servers, judges, and the cache of verdicts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    upstreams: dict[str, LlmUpstream] = Field(default_factory=dict, description="servers by a name of your choice")
    judges: dict[str, str] = Field(default_factory=dict, description="LLM judge to the name of its upstream")
    default: str | None = Field(default=None, description="upstream of the LLM judges that `judges` does not name")
    required: bool = Field(default=True, description="false: /readyz does not wait for the upstreams")
    cache: Path | None = Field(
        default=None, description="SQLite file of LLM verdicts, shared by restarts; none: kept in memory"
    )
    cache_verdicts: int = Field(default=1_000_000, ge=0, description="verdicts kept; the oldest go; 0: no cache")
    probe_interval_s: float = Field(default=5.0, gt=0, description="pause between probes of a failing upstream")
    canaries_right: float = Field(
        default=0.75, ge=0, le=1, description="share of a judge's canaries that it has to get right; 0: none are asked"
    )
    canary_every: int = Field(
        default=500, ge=1, description="requests of the judge service after which the canaries are asked again"
    )

    @model_validator(mode="after")
    def _names_exist(self) -> Self:
        for judge, name in {**self.judges, "default": self.default}.items():
            if name is not None and name not in self.upstreams:
                there = ", ".join(sorted(self.upstreams)) or "none"
                raise ValueError(f"llm: '{judge}' names the upstream '{name}'; the upstreams are: {there}")
        return self

    def upstream_of(self, judge: str) -> str | None:
        """Return the name of the upstream that a judge asks; None where none is configured for it."""
        return self.judges.get(judge, self.default)
