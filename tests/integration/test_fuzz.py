"""schemathesis against the OpenAPI documents of both services, with all its checks.

`scripts/fuzz` installs it, apart, and runs this with 500 examples an operation; here a few do, where it is installed.
"""

import os
import subprocess
from pathlib import Path

import pytest

from trainer.services import judge_service, reward_service

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / ".venv-fuzz" / "bin" / "st"
SETTINGS = Path(__file__).with_name("schemathesis.toml")
EXAMPLES = os.environ.get("CGPO_FUZZ_EXAMPLES", "5")
TOKEN = "fuzzing-token"

pytestmark = [
    pytest.mark.skipif(not PROGRAM.exists(), reason="schemathesis is not installed; scripts/fuzz does it"),
    pytest.mark.timeout(3600),
]


def fuzz(url: str, folder: Path) -> None:
    """Run schemathesis; its report is the message where it finds something."""
    command = [PROGRAM, "--config-file", SETTINGS, "run", f"{url}/openapi.json", "--max-examples", EXAMPLES]
    command += ["--header", f"Authorization: Bearer {TOKEN}"]
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "fuzz_hooks", "PYTHONPATH": str(SETTINGS.parent)}
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    (folder / "report.txt").write_text(done.stdout + done.stderr)
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:]


def test_the_judge_service_keeps_to_its_document(tmp_path, monkeypatch):
    monkeypatch.setenv("JUDGE_SERVICE_TOKENS", TOKEN)
    monkeypatch.setenv("JUDGE_SERVICE_ADAPTER_JUDGES", "word_count,math_answer")
    with judge_service(600) as url:
        fuzz(url, tmp_path)


def test_the_reward_service_keeps_to_its_document(tmp_path, tiny_folders, monkeypatch):
    monkeypatch.setenv("REWARD_SERVICE_TOKENS", TOKEN)
    with reward_service(tiny_folders[1], 600) as url:
        fuzz(url, tmp_path)
