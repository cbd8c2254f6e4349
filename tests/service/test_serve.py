import json
import logging
import os
import signal
import socket
import subprocess
import sys

import httpx
import pytest

from service.logs import JsonLines
from service.serve import bind

PROGRAM = """
from service.app import create_service_app
from service.serve import run
from service.settings import ServiceSettings

settings = ServiceSettings(port=0)
run(create_service_app("tiny-service", settings, list), settings)
"""


def test_a_service_on_a_free_port_says_where_it_listens_and_ends_on_a_signal():
    command = [sys.executable, "-c", PROGRAM]
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            name, _, url = process.stdout.readline().strip().partition(" listening on ")
            assert name == "tiny-service"
            with httpx.Client() as client:
                assert client.get(f"{url}/readyz").status_code == 200
        finally:
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=20)
    lines = [json.loads(line) for line in errors.splitlines()]
    assert any(line.get("route") == "/readyz" and line["status"] == 200 for line in lines)


def test_a_taken_port_is_an_error_that_names_the_way_out():
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        with pytest.raises(OSError, match=r"cannot bind .*--port"):
            bind("127.0.0.1", taken.getsockname()[1])


def test_ipv6_loopback_is_bound_where_the_machine_has_it():
    if not socket.has_ipv6:
        pytest.skip("no IPv6")
    try:
        with bind("::1", 0) as listener:
            assert listener.family is socket.AF_INET6
    except OSError as error:
        pytest.skip(f"no IPv6 loopback: {error}")


def test_an_exception_in_the_log_shows_its_type_and_not_its_message():
    try:
        raise ValueError("private")
    except ValueError:
        record = logging.getLogger("x").makeRecord("x", logging.ERROR, "f", 1, "failed", (), sys.exc_info())
    line = json.loads(JsonLines().format(record))
    assert line["exception"] == "ValueError"
    assert "private" not in json.dumps(line)
