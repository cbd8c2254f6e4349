"""The manifests of deploy/kubernetes against Kubernetes' own schemas, and against what the services are."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from judge_service.settings import JudgeSettings
from reward_service.settings import RewardSettings
from service.serve import SHUTDOWN_S
from wire.replicas import LOOK_S

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = "1.37"
KUSTOMIZATION = yaml.safe_load((DEPLOY / "kustomization.yaml").read_text())
OBJECTS = [
    document
    for resource in KUSTOMIZATION["resources"]
    for document in yaml.safe_load_all((DEPLOY / resource).read_text())
]


def named(document):
    return f"{document['kind']}/{document['metadata']['name']}"


def of_kind(*kinds):
    return [document for document in OBJECTS if document["kind"] in kinds]


PODS = {named(one): one["spec"]["template"] for one in of_kind("Deployment", "DaemonSet", "Job")}
SETTINGS = {"JUDGE_SERVICE_": JudgeSettings, "REWARD_SERVICE_": RewardSettings}


def containers(pod):
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


@pytest.mark.parametrize("document", OBJECTS, ids=named)
def test_an_object_is_valid_by_the_schema_of_its_kind(document):
    kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_the_kustomization_names_every_manifest_and_every_image():
    files = {path.relative_to(DEPLOY).as_posix() for path in (DEPLOY / "kubernetes").glob("*.yaml")}
    assert files == set(KUSTOMIZATION["resources"])
    images = {container["image"] for pod in PODS.values() for container in containers(pod)}
    assert images == {image["name"] for image in KUSTOMIZATION["images"]}


@pytest.mark.parametrize("name", PODS)
def test_a_pod_is_confined_as_its_container_is_in_compose(name):
    spec = PODS[name]["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    for container in containers(PODS[name]):
        context = {**spec.get("securityContext", {}), **container["securityContext"]}
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert "privileged" not in context
        assert context["seccompProfile"]["type"] in ("RuntimeDefault", "Localhost")
        assert "memory" in container["resources"]["limits"]
        assert context["runAsUser"] == (0 if name == "DaemonSet/seccomp-profile" else 10001)


def test_no_pod_gets_variables_that_a_service_would_take_for_its_settings():
    # For a Service `judge` Kubernetes sets JUDGE_SERVICE_PORT in every pod, unless it is told not to.
    assert all(pod["spec"]["enableServiceLinks"] is False for pod in PODS.values())


@pytest.mark.parametrize("name", PODS)
def test_every_variable_of_a_service_is_a_setting(name):
    for variable in [one["name"] for container in containers(PODS[name]) for one in container.get("env", [])]:
        for prefix, settings in SETTINGS.items():
            if variable.startswith(prefix):
                assert variable.removeprefix(prefix).lower() in settings.model_fields


@pytest.mark.parametrize("name", ["judge", "reward"])
def test_a_service_finds_its_pods_at_the_port_that_they_listen_on(name):
    (service,) = [one for one in of_kind("Service") if one["metadata"]["name"] == name]
    pod = PODS[f"Deployment/{name}"]
    port = SETTINGS[f"{name.upper()}_SERVICE_"].model_fields["port"].default
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert service["spec"]["clusterIP"] == "None"  # or one address would stand for all replicas
    assert [one["port"] for one in service["spec"]["ports"]] == [port]
    assert containers(pod)[-1]["ports"] == [{"name": "http", "containerPort": port}]


@pytest.mark.parametrize("name", ["Deployment/judge", "Deployment/reward"])
def test_a_service_is_probed_where_it_answers_and_has_the_time_to_end_what_it_holds(name):
    spec, container = PODS[name]["spec"], containers(PODS[name])[-1]
    paths = {kind: container[kind]["httpGet"]["path"] for kind in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert paths == {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}
    pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pause >= LOOK_S
    assert spec["terminationGracePeriodSeconds"] >= pause + JudgeSettings().drain_timeout_s + SHUTDOWN_S


@pytest.mark.parametrize("name", ["judge", "reward"])
def test_the_settings_of_a_service_are_those_of_compose(name):
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"][name]["environment"]
    env = {one["name"]: one["value"] for one in containers(PODS[f"Deployment/{name}"])[-1]["env"]}
    env.pop("JUDGE_SERVICE_WORKERS", None)
    for variable, value in compose.items():
        assert env.pop(variable) == re.sub(r"\$\{\w+:-(.*)\}", r"\1", value)
    assert env == {}


def test_every_selector_of_budgets_and_policies_finds_a_pod():
    labels = [pod["metadata"]["labels"].items() for pod in PODS.values()]
    selectors = [one["spec"]["selector"]["matchLabels"] for one in of_kind("PodDisruptionBudget")]
    selectors += [one["spec"]["podSelector"].get("matchLabels", {}) for one in of_kind("NetworkPolicy")]
    for selector in selectors:
        assert any(selector.items() <= items for items in labels), selector


def test_a_judge_reaches_names_classifiers_and_llm_servers_and_nothing_else():
    labels = PODS["Deployment/judge"]["metadata"]["labels"].items()
    rules = [
        rule
        for one in of_kind("NetworkPolicy")
        if one["spec"]["podSelector"].get("matchLabels", {}).items() <= labels
        for rule in one["spec"].get("egress", [])
    ]
    assert sorted(port["port"] for rule in rules for port in rule["ports"]) == [53, 53, 8000, 8002]
    assert all(target.get("podSelector") for rule in rules for target in rule["to"])


def test_the_seccomp_profile_on_the_nodes_is_the_one_of_compose():
    (generator,) = KUSTOMIZATION["configMapGenerator"]
    assert generator["files"] == ["judge.json=seccomp-judge.json"]
    assert json.loads((DEPLOY / "seccomp-judge.json").read_text())
    pod = PODS["DaemonSet/seccomp-profile"]["spec"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes["profile"]["configMap"]["name"] == generator["name"]
    folder = Path(volumes["seccomp"]["hostPath"]["path"])
    profile = PODS["Deployment/judge"]["spec"]["securityContext"]["seccompProfile"]
    assert folder / "judge.json" == Path("/var/lib/kubelet/seccomp") / profile["localhostProfile"]


def test_the_trainer_asks_the_services_by_the_names_that_they_have():
    arguments = containers(PODS["Job/trainer"])[-1]["args"]
    services = [f"http://{one['metadata']['name']}:{one['spec']['ports'][0]['port']}" for one in of_kind("Service")]
    assert [argument for argument in arguments if argument.startswith("http")] == services
    assert arguments == yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["trainer"]["command"]


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed here; it is no wheel")
def test_kustomize_builds_it():
    done = subprocess.run(["kubectl", "kustomize", DEPLOY], capture_output=True, text=True, check=True)
    built = list(yaml.safe_load_all(done.stdout))
    assert len(built) == len(OBJECTS) + 1  # the ConfigMap
    for document in built:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
