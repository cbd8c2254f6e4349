"""`reward-service`, the same as `python -m reward_service`."""

from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from reward_service.errors import ModelRefused
from reward_service.settings import RewardSettings, by_name
from service.serve import run


def serve(
    model: Annotated[
        list[str] | None,
        typer.Option(help="Folder or hub id of a classifier with one label; several as NAME=PATH, repeated."),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to bind; anything but loopback needs a token.")] = None,
    port: Annotated[int | None, typer.Option(help="TCP port (8002); 0 takes a free one and prints it.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with settings.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...; auto by default.")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="auto (bfloat16 where the hardware has it), float32, bfloat16 or float16.")
    ] = None,
    max_length: Annotated[int | None, typer.Option(help="Tokens read of one item, the last ones.")] = None,
    token_file: Annotated[Path | None, typer.Option(help="File with one accepted bearer token a line.")] = None,
    log_level: Annotated[str | None, typer.Option(help="DEBUG, INFO, WARNING or ERROR.")] = None,
) -> None:
    """Serve a reward model. Settings come from the options, REWARD_SERVICE_* and the YAML file, in this order."""
    try:
        named = by_name(model or [])
        alone = next(iter(named)) if len(named) == 1 and named.keys() == set(named.values()) else None
        settings = RewardSettings.load(
            config,
            model=alone,
            models=None if alone or not named else named,
            host=host,
            port=port,
            device=device,
            dtype=dtype,
            max_length=max_length,
            token_file=token_file,
            log_level=log_level,
        )
    except ValidationError as error:
        lines = (f"{'.'.join(map(str, e['loc'])) or 'settings'}: {e['msg']}" for e in error.errors(include_input=False))
        raise typer.BadParameter("; ".join(lines)) from None
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error)) from None
    # Here, not above: torch takes seconds to import, and neither --help nor a wrong option needs it.
    from transformers.utils import logging as transformers_logging

    from reward_service.app import create_app

    # What it logs becomes our lines, and its progress bars, which are none, are not drawn.
    transformers_logging.disable_progress_bar()
    transformers_logging.disable_default_handler()
    transformers_logging.enable_propagation()
    try:
        run(create_app(settings), settings)
    except ModelRefused as error:
        typer.echo(f"reward-service: {error}", err=True)
        raise typer.Exit(2) from None
    except OSError as error:
        typer.echo(f"reward-service: {error.strerror or error}", err=True)
        raise typer.Exit(1) from None


def main() -> None:
    """Run the command line."""
    typer.run(serve)


if __name__ == "__main__":
    main()
