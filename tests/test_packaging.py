"""What an installation brings: extras that stay apart, every version pinned, scripts that a plain sh can run."""

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]
SCRIPTS = [
    "scripts/install",
    "scripts/check",
    "scripts/test",
    "scripts/quickstart",
    "scripts/fuzz",
    "scripts/compose-test",
    ".ci/run",
]
NO_TORCH = {"torch", "transformers", "accelerate", "peft"}


def pins():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def needed_by(requirements):
    """Names of everything that these requirements install, by the metadata of what is installed here."""
    waiting, needed = [(Requirement(one), "") for one in requirements], set()
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        for wanted in {"", *requirement.extras}:
            if (name, wanted) in needed:
                continue
            needed.add((name, wanted))
            waiting += [(Requirement(one), wanted) for one in importlib.metadata.requires(name) or []]
    return {name for name, _ in needed}


@pytest.mark.parametrize("extra", ["judge", None])
def test_the_judge_service_and_the_wire_install_without_torch(extra):
    base = PROJECT["project"]["dependencies"]
    assert not NO_TORCH & needed_by(base + (EXTRAS[extra] if extra else []))


def test_everything_that_all_extras_install_is_pinned():
    pinned = {canonicalize_name(pin.split("==")[0]) for pin in pins()}
    everything = needed_by(PROJECT["project"]["dependencies"] + [one for extra in EXTRAS.values() for one in extra])
    assert sorted(everything - pinned) == []


def test_every_pin_is_exact_and_stands_once_and_none_is_of_a_cuda_build():
    names = [pin.split("==")[0].lower() for pin in pins()]
    assert [pin for pin in pins() if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", pin)] == []
    assert sorted(set(names)) == sorted(names)
    assert [name for name in names if name.startswith(("nvidia", "triton"))] == []


def test_pins_satisfy_what_pyproject_asks_for():
    version_of = {canonicalize_name(pin.split("==")[0]): pin.split("==")[1] for pin in pins()}
    for one in PROJECT["project"]["dependencies"] + [one for extra in EXTRAS.values() for one in extra]:
        requirement = Requirement(one)
        assert requirement.specifier.contains(version_of[canonicalize_name(requirement.name)]), one


def test_every_package_is_in_the_wheel_and_checked_by_the_import_rules():
    packages = sorted(path.parent.name for path in ROOT.glob("*/__init__.py"))
    assert sorted(PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) == packages
    assert sorted(PROJECT["tool"]["importlinter"]["root_packages"]) == packages


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_executable_and_plain_sh(script):
    path = ROOT / script
    assert path.read_text(encoding="utf-8").startswith("#!/bin/sh\n")
    assert path.stat().st_mode & 0o111
    assert subprocess.run(["sh", "-n", path], check=False).returncode == 0


@pytest.mark.parametrize("package", ["judge_service", "service"])
def test_a_service_without_torch_does_not_import_it(package):
    code = f"import sys, {package}; print([name for name in {sorted(NO_TORCH)!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_containers_serve_the_embedded_models_of_this_build():
    files = (ROOT / "docker-compose.yml", *(ROOT / "deploy").rglob("*.yaml"))
    named = re.findall(r"/models/([\w.-]+)/", "".join(file.read_text(encoding="utf-8") for file in files))
    embedded = (ROOT / "trainer" / "embedded.py").read_text(encoding="utf-8")
    assert set(named) == set(re.findall(r'^BUILD = "(.+)"', embedded, re.MULTILINE))
