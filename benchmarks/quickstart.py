"""The training part of the quickstart in two checkouts, side by side: python -m benchmarks.quickstart --before FOLDER

    git worktree add FOLDER a4e13d2

Each checkout trains its own packaged settings, all steps of them, with its own `trainer` and against the same services,
those of this checkout; the two take turns step by step. Only the second has what `cgpo train` gives its process since
(`trainer.environment`). Prints both times and their ratio.
"""

import argparse
import json
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from benchmarks.lockstep import ROOT, Arm, gated, in_turns


def train(settings: dict[str, str]) -> None:
    """Train as the quickstart of the checkout does whose packages are imported: the worker."""
    from importlib import resources

    from trainer import run
    from trainer.run_config import read_run_config

    with resources.as_file(resources.files("trainer") / "data" / "quickstart.yaml") as path:
        config = read_run_config(path)
    config = config.model_copy(update={**settings, "eval_dataset": None})
    folder = Path(tempfile.mkdtemp(prefix="cgpo-quickstart-"))
    config = config.model_copy(update={"training": {**config.training, "disable_tqdm": True}})
    # The checkout of before has no tasks.
    made = run.check(config, folder) if hasattr(run, "check") else (run.training_arguments(config.training, folder),)
    trainer = run._trainer(config, *made)
    gated(trainer)
    trainer.train()


def main() -> None:
    """Start the services and the arms, take the steps, print the table."""
    if len(sys.argv) > 1 and sys.argv[1].startswith("{"):
        return train(json.loads(sys.argv[1]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="the checkout to compare with")
    parser.add_argument("--after", type=Path, default=ROOT, help="this checkout, or another one")
    parser.add_argument("--steps", type=int, default=8, help="steps, at most the quickstart's 8")
    given = parser.parse_args()
    # Not at the top: a worker runs this file with the packages of another checkout, which may lack it.
    from benchmarks.step import embedded
    from trainer.services import quickstart_services

    folders = embedded()
    with ExitStack() as stack:
        judges, rewards = stack.enter_context(quickstart_services(folders["reward_model"], Path(folders["refusals"])))
        urls = {"judge_url": judges.ready(), "reward_url": rewards.ready()}
        arms = []
        for name, folder, environment in (("before", given.before, {}), ("after", given.after, None)):
            command = [sys.executable, "-m", "benchmarks.quickstart"]
            arms.append(Arm(name, command, urls, folder.absolute(), environment))
            stack.callback(arms[-1].close)
        in_turns(arms, given.steps, warmup=0)
    print("| checkout | generate | log-probs | judge wait | update | median step | all steps | peak memory |")
    print("|---|---|---|---|---|---|---|---|")
    for arm in arms:
        split = " | ".join(f"{arm.median(part):.2f} s" for part in ("generate", "logprobs", "judge"))
        total = sum(step["total"] for step in arm.steps)
        print(
            f"| {arm.name} | {split} | {arm.update_s:.2f} s | {arm.median():.2f} s | {total:.1f} s "
            f"| {arm.peak_gb:.2f} GB |"
        )
    before, after = (sum(step["total"] for step in arm.steps) for arm in arms)
    print(f"\nbefore / after, all steps: {before / after:.2f}x")
    return None


if __name__ == "__main__":
    main()
