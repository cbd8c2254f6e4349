"""One training step against TRL's GRPOTrainer, side by side: python -m benchmarks.step --peer-env FOLDER

Same model (the embedded SmolLM2-135M), same six prompts, K = 8, up to 64 tokens, bfloat16 compute with float32
weights, the same threads. Both sides ask the same judge service and the same reward service on this machine; the peer
does so in its reward function, and has `beta` > 0. Prints the median of some steps after a warm-up, all arms taking
turns, split into generate, log-probabilities (policy and reference), judge wait and update.

FOLDER becomes a virtual environment with trl, which uses the torch and transformers of this one. `--peer-python` takes
an interpreter that has trl already; `--no-peer` runs ours alone; `--peer-free-reward` gives the peer a reward for
nothing, while ours still asks. All arms have the environment that `cgpo train` has (`trainer.environment`);
`--peer-own-memory` leaves the peer's C library its own ways with memory, as they are where nobody changes them.
`--lora` compares both with LoRA.
"""

import argparse
import json
import subprocess
import sys
import sysconfig
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.lockstep import Arm, in_turns
from trainer.environment import MEMORY, THREADS
from trainer.services import judge_service, reward_service

TRL = "trl==1.16.0"
OPTIMIZERS = ("crpg", "crraft", "codpo")
PARTS = ("generate", "logprobs", "judge")
SWEPT = [("float32", 4), ("float32", 8), ("float32", 16), ("float32", 48), ("bfloat16", 8), ("bfloat16", 16)]


def peer_python(folder: Path) -> str:
    """Return the interpreter of a virtual environment with trl, made on first use.

    It uses the packages of this interpreter otherwise, so that both sides run the same torch and transformers.
    """
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--no-deps", TRL], check=True)
        code = "import sysconfig; print(sysconfig.get_path('purelib'))"
        place = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        (Path(place) / "same_packages.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return str(python)


def embedded() -> dict[str, str]:
    """Return the folders of the embedded models, asked of another process: this one stays small."""
    code = "import json; from dataclasses import asdict; from trainer.embedded import embedded_models as m; "
    code += "print(json.dumps(asdict(m()), default=str))"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    folders: dict[str, str] = json.loads(done.stdout)
    return folders


def print_table(arms: list[Arm], peer: Arm | None) -> None:
    """Print medians, splits and, with a peer, the ratios."""
    print("| loop | generate | log-probs | judge wait | update | step | CPU time | tokens | peak memory |")
    print("|---|---|---|---|---|---|---|---|---|")
    for arm in [*([peer] if peer else []), *arms]:
        split = " | ".join(f"{arm.median(part):.2f} s" for part in PARTS)
        cpu = sorted(step["cpu"] for step in arm.steps)[len(arm.steps) // 2]
        lengths = [step["length"] for step in arm.steps if step["length"]]
        tokens = f"{sum(lengths) / len(lengths):.1f}" if lengths else "-"
        print(
            f"| {arm.name} | {split} | {arm.update_s:.2f} s | {arm.median():.2f} s | {cpu:.1f} s | {tokens} "
            f"| {arm.peak_gb:.2f} GB |"
        )
    if peer:
        print("\n| ratio to ours | step | peak memory, ours to the peer's |\n|---|---|---|")
        for arm in arms:
            print(f"| {arm.name} | {peer.median() / arm.median():.2f}x | {arm.peak_gb / peer.peak_gb:.2f}x |")


def sweep(python: str, settings: dict[str, Any], steps: int) -> None:
    """Print how long the peer's step takes with each of several settings, one after the other."""
    print("| completions in a pass | weights | generate | log-probs | update | step | peak memory |")
    print("|---|---|---|---|---|---|---|")
    for weights, micro_batch in SWEPT:
        own = {**settings, "weights": weights, "micro_batch": micro_batch}
        arm = Arm(f"{weights} {micro_batch}", [python, "-m", "benchmarks.step_peer"], own)
        try:
            in_turns([arm], steps)
        finally:
            arm.close()
        split = f"{arm.median('generate'):.2f} s | {arm.median('logprobs'):.2f} s | {arm.update_s:.2f} s"
        row = f"| {micro_batch} | {weights} | {split} | {arm.median():.2f} s | {arm.peak_gb:.2f} GB |"
        print(row, flush=True)


def arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5, help="steps after the warm-up, median of which is printed")
    parser.add_argument("--optimizers", default=",".join(OPTIMIZERS), help="which of ours, comma-separated")
    parser.add_argument("--length", type=int, default=64, help="most tokens of a completion, on both sides")
    parser.add_argument("--lora", action="store_true", help="both sides train a LoRA adapter")
    parser.add_argument("--peer-env", type=Path, help="virtual environment for the peer, made where it is missing")
    parser.add_argument("--peer-python", help="interpreter that has trl")
    parser.add_argument("--no-peer", action="store_true", help="ours alone")
    parser.add_argument("--peer-micro-batch", type=int, default=8, help="completions in one pass of the peer's update")
    parser.add_argument("--peer-weights", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--peer-own-memory", action="store_true", help="the peer's C library keeps its ways")
    parser.add_argument("--peer-free-reward", action="store_true", help="the peer asks no service: a reward for free")
    parser.add_argument("--peer-config", type=json.loads, default={}, help="more fields of GRPOConfig, as JSON")
    parser.add_argument("--peer-sweep", action="store_true", help="the peer alone, with each of several settings")
    parser.add_argument("--config", type=json.loads, default={}, help="more fields of CGPOConfig, as JSON")
    given = parser.parse_args()
    if not (given.no_peer or given.peer_env or given.peer_python):
        parser.error("give --peer-env FOLDER, --peer-python INTERPRETER, or --no-peer")
    return given


def main() -> None:
    """Start the services and the arms, take the steps, print the table."""
    given = arguments()
    folders = embedded()
    peer_settings = {
        "policy": folders["policy"], "micro_batch": given.peer_micro_batch, "weights": given.peer_weights,
        "lora": given.lora, "length": given.length, "config": given.peer_config,
    }  # fmt: skip
    python = "" if given.no_peer else given.peer_python or peer_python(given.peer_env)
    if given.peer_sweep:
        sweep(python, peer_settings, given.steps)
        return
    peer: Arm | None = None
    arms: list[Arm] = []
    with ExitStack() as stack:
        services: dict[str, Any] = {}
        optimizers = [name for name in given.optimizers.split(",") if name]
        if optimizers:
            services["judge_url"] = stack.enter_context(judge_service(arguments=["--no-require-sandbox"]))
            services["reward_url"] = stack.enter_context(reward_service(folders["reward_model"]))
        if not given.no_peer:
            asked = {} if given.peer_free_reward else services
            tuned = THREADS if given.peer_own_memory else {**THREADS, **MEMORY}
            command = [python, "-m", "benchmarks.step_peer"]
            peer = Arm("GRPOTrainer", command, {**peer_settings, **asked}, environment=tuned)
            stack.callback(peer.close)
        for name in optimizers:
            settings = {
                "optimizer": name, "lora": given.lora, "length": given.length, "config": given.config, **services
            }  # fmt: skip
            arms.append(Arm(name.upper(), [sys.executable, "-m", "benchmarks.step_ours"], settings))
            stack.callback(arms[-1].close)
        in_turns([*([peer] if peer else []), *arms], given.steps)
    print_table(arms, peer)


if __name__ == "__main__":
    main()
