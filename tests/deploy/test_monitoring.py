"""Every metric that the alerts and the dashboard ask for is exported, and docs/operations.md explains every alert."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from judge_service.app import create_app
from judge_service.settings import JudgeSettings
from reward_service.routes import reward_router
from service.metrics import Metrics

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "deploy" / "monitoring"
RULES = [rule for group in yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"] for rule in group["rules"]]
DASHBOARD = json.loads((MONITORING / "grafana" / "cgpo.json").read_text())
QUERIES = {
    **{rule["alert"]: rule["expr"] for rule in RULES},
    **{panel["title"]: target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]},
}
PROMETHEUS_OWN = {"up", "ALERTS"}
PROMQL = {"and", "by", "offset", "on", "or", "unless", "without"}
FUNCTIONS = {"avg", "avg_over_time", "count", "histogram_quantile", "increase", "max", "min", "rate", "sum"}
SUFFIXES = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"], "info": ["_info"], "gauge": [""]}


def exported():
    """Every metric of both services, with its labels where there are any to be known."""
    judge = create_app(JudgeSettings(host="127.0.0.1")).state.metrics
    reward = Metrics()
    reward_router(None, None, {}, reward.registry)
    return {
        family.name + suffix
        for metrics in (judge, reward)
        for family in metrics.registry.collect()
        for suffix in SUFFIXES[family.type]
    }


def metrics_in(query):
    """What a query in PromQL reads, and the labels that it names."""
    grouping = re.findall(r"\bby \(([^)]*)\)", query)
    matching = [match for block in re.findall(r"\{([^}]*)\}", query) for match in re.findall(r"(\w+)(?:=|!)", block)]
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\bby \([^)]*\)|\boffset \w+", " ", query)
    names = set(re.findall(r"[A-Za-z_]\w*", bare)) - PROMQL - FUNCTIONS
    return names, {label.strip() for labels in grouping for label in labels.split(",")} | set(matching)


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_reads_metrics_that_the_services_export(name):
    names, _ = metrics_in(QUERIES[name])
    assert names
    assert names <= exported() | PROMETHEUS_OWN


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_names_labels_that_there_are(name):
    _, labels = metrics_in(QUERIES[name])
    ours = {"judge", "outcome", "status", "route", "method", "upstream", "name", "version"}
    assert labels <= ours | {"job", "instance", "le", "alertname", "alertstate"}


def test_every_alert_has_a_heading_in_the_operations_page_and_the_other_way_round():
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    _, _, alerts = page.partition("\n## Alerts\n")
    headings = re.findall(r"^### (\w+)$", alerts.split("\n## ")[0], re.MULTILINE)
    assert headings == [rule["alert"] for rule in RULES]


def test_every_alert_says_what_is_wrong_and_how_bad_it_is():
    for rule in RULES:
        assert rule["annotations"]["summary"], rule["alert"]
        assert rule["labels"]["severity"] in ("warning", "critical"), rule["alert"]


def test_prometheus_asks_every_name_under_which_compose_runs_a_service():
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    for job in yaml.safe_load((MONITORING / "prometheus.yml").read_text())["scrape_configs"]:
        wanted = {name for name in services if name.split("-")[0] == job["job_name"]}
        assert {name for found in job["dns_sd_configs"] for name in found["names"]} == wanted


def test_the_panels_of_the_dashboard_do_not_overlap_and_have_one_source():
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    cells = [(x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])]
    assert len(set(cells)) == len(cells)
    source = yaml.safe_load((MONITORING / "grafana" / "datasources.yml").read_text())["datasources"][0]["uid"]
    assert {panel["datasource"]["uid"] for panel in DASHBOARD["panels"]} == {source}
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(places)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is part of Debian's prometheus, not of a wheel")
@pytest.mark.parametrize("arguments", [["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]])
def test_promtool_accepts_the_rules_and_they_fire_when_they_should(arguments):
    done = subprocess.run(["promtool", *arguments], cwd=MONITORING, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
