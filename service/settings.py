"""Settings that both services share. Order of precedence: argument, environment, YAML file, default."""

import hashlib
import ipaddress
import json
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    YamlConfigSettingsSource,
)

from wire.base import Limits

SECRETS = frozenset({"tokens", "token_file"})


class ServiceSettings(BaseSettings):
    """What a service is started with. A subclass sets `env_prefix` and its default port."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, env_prefix="SERVICE_")

    host: str = Field(default="127.0.0.1", description="address to bind; anything but loopback needs a token")
    port: int = Field(default=8000, ge=0, le=65535, description="TCP port; 0 takes a free one")
    tokens: Annotated[list[SecretStr], NoDecode] = Field(
        default_factory=list, description="accepted bearer tokens; in the environment separated by commas"
    )
    token_file: Path | None = Field(
        default=None, description="file with one accepted bearer token a line; read again when it changes"
    )
    operations_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="TCP port for /metrics and /docs, which leave the service's own then; the health paths are on both",
    )
    operations_host: str | None = Field(default=None, description="address of operations_port; by default the host")
    serve_metrics: bool = Field(default=True, description="whether there is a /metrics")
    serve_docs: bool = Field(default=True, description="whether there are /docs and /openapi.json")
    items_per_request: int = Field(default=1024, ge=1, description="items in one request")
    characters_per_item: int = Field(default=2_000_000, ge=1, description="code points of all strings of one item")
    body_bytes: int = Field(default=64 * 2**20, ge=1, description="size of one request body, bytes")
    header_bytes: int = Field(default=64 * 2**10, ge=1024, description="size of a request's line and headers, bytes")
    header_timeout_s: float = Field(
        default=10.0, gt=0, description="time in which a request's headers must have arrived, seconds"
    )
    body_timeout_s: float = Field(
        default=30.0,
        gt=0,
        description="time in which a body must have arrived, and a part of a large answer been taken, seconds",
    )
    request_timeout_s: float = Field(
        default=120.0, gt=0, description="deadline of a request without X-Request-Timeout-Ms, seconds"
    )
    connection_limit: int = Field(default=1024, ge=1, description="open connections; one more gets a 503")
    queue_limit: int = Field(default=256, ge=1, description="requests with a body in flight; one more gets a 429")
    queue_bytes: int = Field(
        default=512 * 2**20, ge=1, description="bytes of all bodies in flight; what goes beyond them gets a 429"
    )
    drain_s: float = Field(
        default=0.0,
        ge=0,
        description="time for which a service that was told to end is red and answers 503 before it ends, seconds",
    )
    drain_timeout_s: float = Field(
        default=30.0, gt=0, description="longest wait for what is in flight at the end, seconds"
    )
    log_level: str = Field(default="INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="least level logged")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources, strongest first."""
        return init_settings, env_settings, YamlConfigSettingsSource(settings_cls)

    @classmethod
    def load(cls, config: Path | None = None, **overrides: Any) -> Self:
        """Return the settings from arguments (None: not given), the environment and a YAML file.

        Raises:
            FileNotFoundError: there is no such file; silence would start a service with defaults.
            ValueError: the file is no YAML, or a value is wrong.
        """
        given = {name: value for name, value in overrides.items() if value is not None}
        if config is None:
            return cls(**given)
        if not config.is_file():
            raise FileNotFoundError(f"no settings file '{config}'; give --config a YAML file that exists")

        try:
            content = yaml.safe_load(config.read_text("utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"the settings file '{config}' is no YAML, mend it there: {error}") from None
        if not isinstance(content or {}, dict):
            raise ValueError(f"the settings file '{config}' has no settings by name; write lines like `port: 8001`")

        class FromFile(cls):  # type: ignore[valid-type, misc]
            model_config = SettingsConfigDict(yaml_file=config)

        loaded = FromFile(**given)
        return cls.model_construct(**{name: getattr(loaded, name) for name in cls.model_fields})

    @field_validator("tokens", mode="before")
    @classmethod
    def _split_tokens(cls, value: object) -> object:
        return [token.strip() for token in value.split(",") if token.strip()] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _public_needs_token(self) -> Self:
        has_tokens = bool(self.accepted_tokens())
        public = [host for host in (self.host, self.operations_host) if host is not None and not is_loopback(host)]
        if public and not has_tokens:
            raise ValueError(
                f"host '{public[0]}' is reachable from outside and no token is set; "
                "set tokens or token_file, or bind 127.0.0.1"
            )
        return self

    def accepted_tokens(self) -> list[bytes]:
        """Return every accepted bearer token: those given and those of the token file.

        Raises:
            ValueError: the token file cannot be read, or has none: a service that was to be guarded would be open.
        """
        tokens = [token.get_secret_value() for token in self.tokens]
        if self.token_file is not None:
            try:
                lines = self.token_file.read_text("utf-8").splitlines()
            except OSError as error:
                raise ValueError(f"token_file '{self.token_file}' cannot be read ({error.strerror})") from None
            in_file = [line.strip() for line in lines if line.strip()]
            if not in_file:
                raise ValueError(f"token_file '{self.token_file}' has no token; put one a line into it")
            tokens += in_file
        return [token.encode() for token in tokens]

    def config_sha256(self) -> str:
        """Return the hash of the settings in force, secrets left out, hex."""
        content = self.model_dump(mode="json", exclude=set(SECRETS))
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def limits(self) -> Limits:
        """Return what the service accepts at most."""
        return Limits(
            items_per_request=self.items_per_request,
            characters_per_item=self.characters_per_item,
            body_bytes=self.body_bytes,
        )


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a socket bound to `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
