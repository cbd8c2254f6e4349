"""docker-compose.yml as compose itself reads it, profile by profile: confined containers, and settings that exist."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from judge_service.settings import JudgeSettings
from reward_service.settings import RewardSettings
from trainer.embedded import BUILD

ROOT = Path(__file__).parents[2]
COMPOSE = shutil.which("docker-compose", path=str(Path(sys.executable).parent))
SERVICES = {
    "train": {"token", "models", "judge", "reward", "trainer"},
    "services": {"token", "models", "judge-api", "reward-api"},
    "llm": {"token", "models", "llm", "judge-llm"},
    "gpu": {"token", "models", "judge", "reward-gpu", "trainer-gpu"},
    "monitoring": {"token", "models", "prometheus", "grafana"},
}
FOREIGN = {"prometheus", "grafana"}

pytestmark = pytest.mark.skipif(COMPOSE is None, reason="compose comes as a wheel for Linux alone")


def read(*arguments, **environment):
    """What compose makes of the file, without an engine and whatever the environment says."""
    done = subprocess.run(
        [COMPOSE, *arguments, "config", "--format", "json"],
        cwd=ROOT,
        env={"PATH": os.defpath, "HOME": "/nonexistent", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def everything():
    return read(*(word for profile in SERVICES for word in ("--profile", profile)))


@pytest.mark.parametrize("profile", SERVICES)
def test_a_profile_starts_what_it_says(profile):
    assert set(read("--profile", profile)["services"]) == SERVICES[profile]


def test_without_a_profile_the_quickstart_is_trained():
    assert set(read()["services"]) == SERVICES["train"]


def test_what_asks_for_the_embedded_models_starts_when_they_are_built(everything):
    """On a slow machine that takes longer than a container has to become healthy."""
    for name in ("judge", "judge-api", "reward", "reward-api", "reward-gpu", "llm"):
        awaited = everything["services"][name]["depends_on"]["models"]
        assert awaited["condition"] == "service_completed_successfully", name


def test_every_container_is_confined(everything):
    for name, service in everything["services"].items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert service["pids_limit"] == 512, name
        assert not {"privileged", "cap_add", "devices", "pid", "ipc", "userns_mode"} & set(service), name
        assert name in FOREIGN or service["user"] == "10001:10001", name
        assert name == "token" or int(service["mem_limit"]) > 0, name
        assert not any("docker.sock" in volume.get("source", "") for volume in service["volumes"]), name


def test_nothing_is_published_but_on_loopback(everything):
    ports = {
        (name, port["target"]): port["host_ip"]
        for name, service in everything["services"].items()
        for port in service.get("ports", [])
    }
    assert set(ports) == {
        ("judge-api", 8001),
        ("judge-llm", 8001),
        ("reward-api", 8002),
        ("prometheus", 9090),
        ("grafana", 3000),
    }
    assert set(ports.values()) == {"127.0.0.1"}


def test_no_service_has_a_way_out(everything):
    assert everything["networks"]["services"]["internal"]
    assert everything["networks"]["published"]["driver_opts"] == {
        "com.docker.network.bridge.enable_ip_masquerade": "false"
    }
    for name, service in everything["services"].items():
        networks = service.get("networks")
        assert (
            service.get("network_mode") == "none" if networks is None else set(networks) <= {"services", "published"}
        ), name


def test_the_judges_alone_have_the_profile_that_lets_the_sandbox_make_namespaces(everything):
    with_profile = {
        name
        for name, service in everything["services"].items()
        if any(option.startswith("seccomp:deploy/seccomp-judge.json") for option in service["security_opt"])
    }
    assert with_profile == {"judge", "judge-api", "judge-llm"}
    assert json.loads((ROOT / "deploy" / "seccomp-judge.json").read_text())["defaultAction"] == "SCMP_ACT_ERRNO"


def test_every_variable_of_the_services_is_a_setting(everything):
    prefixes = {"JUDGE_SERVICE_": JudgeSettings, "REWARD_SERVICE_": RewardSettings}
    for name, service in everything["services"].items():
        for variable in service.get("environment") or {}:
            for prefix, settings in prefixes.items():
                if variable.startswith(prefix):
                    assert variable.removeprefix(prefix).lower() in settings.model_fields, f"{name}: {variable}"


def test_no_secret_stands_in_the_environment(everything):
    for service in everything["services"].values():
        for variable, value in (service.get("environment") or {}).items():
            assert "TOKEN" not in variable or value == "/secrets/token"
            assert "PASSWORD" not in variable or value == "/secrets/token"


def test_every_file_that_is_mounted_exists(everything):
    for name, service in everything["services"].items():
        for volume in service["volumes"]:
            assert volume["type"] == "volume" or Path(volume["source"]).is_file(), f"{name}: {volume['source']}"


def test_every_path_of_an_embedded_model_is_that_of_the_build_that_is_made():
    files = [ROOT / "docker-compose.yml", *(ROOT / "deploy").rglob("*.yaml")]
    named = {name for file in files for name in re.findall(r"/models/([\w.-]+)/", file.read_text())}
    assert named == {BUILD}


def test_the_settings_of_the_llm_judges_can_be_read(monkeypatch):
    monkeypatch.setenv("JUDGE_SERVICE_HOST", "127.0.0.1")
    settings = JudgeSettings.load(ROOT / "deploy" / "llm_judges.yaml")
    command = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["llm"]["command"]
    assert settings.llm.upstreams["embedded"].model == command[2]


def test_prometheus_sends_the_first_of_several_tokens(everything, tmp_path):
    """The whole file is no header while it has two lines, and every service would look down."""
    program, *arguments = everything["services"]["prometheus"]["entrypoint"]
    assert "credentials_file: /tmp/token" in (ROOT / "deploy" / "monitoring" / "prometheus.yml").read_text()
    given = [
        word.replace("/secrets/", "secret-")
        .replace("/tmp/", "")
        .replace("sleep 5", "sleep 0.05")
        .replace("exec prometheus", "exec sleep")
        .replace("$$", "$")
        for word in arguments
    ]
    secret, sent = tmp_path / "secret-token", tmp_path / "token"
    secret.write_text("new\nold\n")
    with subprocess.Popen([program, *given, "60"], cwd=tmp_path, start_new_session=True) as running:
        try:
            for wanted in ("new\n", "newer\n"):
                deadline = time.monotonic() + 30
                while not (sent.exists() and sent.read_text() == wanted):
                    assert time.monotonic() < deadline, wanted
                    time.sleep(0.05)
                secret.write_text("newer\nnew\n")
        finally:
            os.killpg(running.pid, signal.SIGKILL)
