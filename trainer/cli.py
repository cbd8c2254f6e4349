"""The command `cgpo`: train, quickstart, models, judge, rescore, validate, calibrate, fit-reward, fit-judge."""

import importlib
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from trainer.environment import settle_in
from trainer.errors import CGPOError, ConfigError
from trainer.evaluation import commands
from trainer.evaluation.calibrate_command import calibrate
from trainer.fitting import commands as fitting
from trainer.processes import check_launch, is_first_process
from trainer.run_config import RunConfig, read_run_config, with_overrides
from wire import ServiceError

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Constrained Generative Policy Optimization.",
)

Override = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override a setting, e.g. training.k=8")
]
Output = Annotated[Path | None, typer.Option("--output", help="the run folder; default: runs/<time>")]


@app.command()
def train(
    file: Annotated[Path, typer.Argument(help="the run, as YAML; see examples/quickstart.yaml")],
    judge_url: Annotated[list[str] | None, typer.Option(help="where the judge service is; again for replicas")] = None,
    reward_url: Annotated[list[str] | None, typer.Option(help="where the reward service is")] = None,
    output: Output = None,
    override: Override = None,
    resume: Annotated[bool, typer.Option(help="go on from the last checkpoint in --output")] = False,
) -> None:
    """Train as a file describes it; without URLs both services are started for the run, on this machine.

    A bearer token is read from $CGPO_TOKEN or the file $CGPO_TOKEN_FILE.
    """
    config = with_overrides(read_run_config(file), override)
    urls = {"judge_url": judge_url, "reward_url": reward_url}
    config = config.model_copy(update={name: url for name, url in urls.items() if url})
    _run(config, output, resume)


@app.command()
def quickstart(output: Output = None, override: Override = None) -> None:
    """Build the embedded models, start both services, train CRPG on packaged prompts, and show what changed."""
    with resources.as_file(resources.files("trainer") / "data" / "quickstart.yaml") as path:
        config = with_overrides(read_run_config(path), override)
    _run(config.model_copy(update={"judge_url": None, "reward_url": None}), output, False)


@contextmanager
def _services(config: RunConfig, console: Console) -> Iterator[RunConfig]:
    """Yield the run with the services it names; where it names none, start both on this machine, and stop them."""
    if config.judge_url or config.reward_url:
        yield config
        return
    console.print("[bold]1/3[/] the embedded policy, reward model and judge of refusals (built once, about a minute)")
    from trainer.embedded import embedded_models
    from trainer.services import quickstart_services

    built = embedded_models()
    scorer = built.reward_model if config.reward_model == "embedded" else config.reward_model
    console.print("[bold]2/3[/] judge service and reward service, each a process of its own")
    with quickstart_services(scorer, built.refusals) as (judges, rewards):
        importlib.import_module("trainer.cgpo_trainer")  # takes seconds: the services start meanwhile
        urls = {"judge_url": judges.ready(), "reward_url": rewards.ready()}
        console.print(f"    judges {urls['judge_url']}   reward {urls['reward_url']}")
        console.print("[bold]3/3[/] evaluation, training, evaluation")
        yield config.model_copy(update=urls)


@app.command()
def models() -> None:
    """Build the embedded models in the cache folder, and print where they are."""
    from trainer.embedded import embedded_models

    built = embedded_models()
    for name, folder in (("policy", built.policy), ("reward model", built.reward_model), ("refusals", built.refusals)):
        Console().print(f"{name + ':':<14}{folder}", soft_wrap=True)


app.command()(commands.judge)
app.command()(commands.rescore)
app.command()(commands.validate)
app.command()(calibrate)
app.command()(fitting.fit_reward)
app.command()(fitting.fit_judge)


def _run(config: RunConfig, output: Path | None, resume: bool) -> None:
    from trainer.run import check, run

    if resume and output is None:
        raise ConfigError("--resume needs --output, the run folder to go on with")
    check_launch(output, config.judge_url, config.reward_url)
    folder, console = output or Path("runs") / time.strftime("%Y%m%d-%H%M%S"), Console(quiet=not is_first_process())
    check(config, folder, resume)  # before services start
    with _services(config, console) as complete:
        run(complete, folder, console, resume)


def main() -> None:
    """Run the command; an error of ours ends it with its message and status 1, without a traceback."""
    # SIGTERM unwinds like Ctrl-C, so that services and bars are cleaned up.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    settle_in()
    try:
        app()
    except (CGPOError, ServiceError) as error:
        Console(stderr=True).print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True, highlight=False)
        sys.exit(1)


if __name__ == "__main__":
    main()
