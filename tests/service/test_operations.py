"""/metrics and /docs on a port of their own, or not at all."""

import os
import subprocess
import sys

import httpx
import pytest
from pydantic import ValidationError

from service.settings import ServiceSettings

PROGRAM = """
from service.app import create_service_app
from service.serve import run
from service.settings import ServiceSettings

settings = ServiceSettings(port=0, operations_port=0, tokens=["t"])
run(create_service_app("two-ports", settings, list), settings)
"""


def test_metrics_and_docs_leave_the_services_port_for_one_of_their_own():
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        try:
            apart, own = (process.stdout.readline().split()[-1] for _ in range(2))
            with httpx.Client(headers={"authorization": "Bearer t"}, trust_env=False) as client:
                answers = {
                    path: (client.get(own + path).status_code, client.get(apart + path).status_code)
                    for path in ("/metrics", "/docs", "/openapi.json", "/version", "/readyz", "/nowhere")
                }
            stranger = httpx.get(f"{apart}/metrics", trust_env=False).status_code
        finally:
            process.terminate()
    assert answers == {
        "/metrics": (404, 200),
        "/docs": (404, 200),
        "/openapi.json": (404, 200),
        "/version": (200, 404),
        "/readyz": (200, 200),
        "/nowhere": (404, 404),
    }
    assert stranger == 401


@pytest.mark.parametrize(
    ("settings", "missing"),
    [({"serve_metrics": False}, ["/metrics"]), ({"serve_docs": False}, ["/docs", "/openapi.json"])],
)
def test_each_can_be_switched_off(build, send, settings, missing):
    app = build(ServiceSettings(**settings))
    for path in ("/metrics", "/docs", "/openapi.json"):
        assert send(app, "GET", path).status_code == (404 if path in missing else 200)


def test_a_public_port_for_them_needs_a_token_too():
    with pytest.raises(ValidationError, match=r"0\.0\.0\.0.*token"):
        ServiceSettings(operations_port=9000, operations_host="0.0.0.0")
