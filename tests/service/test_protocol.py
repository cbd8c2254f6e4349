"""Clients that are slow, endless, silent or many, over real sockets, against a service in a process of its own."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

PROGRAM = """
from fastapi import APIRouter, Request
from service.app import create_service_app
from service.body import json_response
from service.serve import run
from service.settings import ServiceSettings

router = APIRouter()

@router.post("/echo")
async def echo(request: Request):
    return json_response(b"%d" % len(await request.body()))

@router.get("/large")
async def large():
    return json_response(b"0" * (64 << 20))

settings = ServiceSettings(
    port=0, header_timeout_s=0.5, body_timeout_s=0.5, header_bytes=4096, connection_limit=8, body_bytes=1 << 20
)
run(create_service_app("guarded-service", settings, list, [router]), settings)
"""
GET = b"GET /livez HTTP/1.1\r\nhost: a\r\n"
POST = b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
LONGEST_S = 20.0


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        try:
            yield "127.0.0.1", int(process.stdout.readline().rpartition(":")[2])
        finally:
            process.terminate()


@pytest.fixture
def client(address: tuple[str, int]) -> Iterator[socket.socket]:
    with socket.create_connection(address, timeout=LONGEST_S) as connection:
        yield connection


def rest(connection: socket.socket) -> bytes:
    """All that comes until the service closes."""
    chunks = []
    try:
        while chunk := connection.recv(1 << 16):
            chunks.append(chunk)
    except ConnectionResetError:
        pass
    return b"".join(chunks)


def one_answer(connection: socket.socket) -> bytes:
    """One answer, to the last byte of its body: head and body may come apart."""

    def more() -> bytes:
        chunk = connection.recv(1 << 16)
        assert chunk, "the service closed before its answer was complete"
        return chunk

    answer = more()
    while b"\r\n\r\n" not in answer:
        answer += more()
    head, _, body = answer.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
    while len(body) < length:
        body += more()
    return head + b"\r\n\r\n" + body


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def drip(connection: socket.socket, data: bytes, pause_s: float = 0.05) -> bool:
    """Send byte by byte; return whether the service ended it."""
    end = time.monotonic() + LONGEST_S
    while time.monotonic() < end:
        for number in range(len(data)):
            try:
                connection.sendall(data[number : number + 1])
            except OSError:
                return True
            connection.settimeout(pause_s)
            try:
                connection.recv(1, socket.MSG_PEEK)
                return True
            except TimeoutError:
                connection.settimeout(LONGEST_S)
    return False


def is_cut_off(connection: socket.socket, pieces: list[bytes]) -> bool:
    """Send the pieces; return whether the service ended it before the last."""
    try:
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(0.005)
    except OSError:
        return True
    return False


def test_a_client_that_says_nothing_is_cut_off(client):
    assert rest(client) == b""


def test_a_client_that_drips_its_headers_is_cut_off_with_a_408(client):
    assert drip(client, GET + b"x: " + b"y" * 10_000)
    client.settimeout(LONGEST_S)
    answer = rest(client)
    assert status_of(answer) == 408
    assert b"application/problem+json" in answer
    assert json.loads(answer.rpartition(b"\r\n\r\n")[2])["detail"] == "the headers did not arrive within 0.5 s"


def test_empty_lines_without_end_are_no_request(client):
    assert drip(client, b"\r\n" * 5000)


def test_half_a_next_request_on_a_kept_connection_is_cut_off(client):
    client.sendall(GET + b"\r\n")
    assert status_of(one_answer(client)) == 200
    client.sendall(GET)
    assert status_of(rest(client)) == 408


def test_a_kept_connection_may_rest_longer_than_headers_may_take(client):
    for _ in range(2):
        client.sendall(GET + b"\r\n")
        assert status_of(one_answer(client)) == 200
        time.sleep(1.0)


@pytest.mark.parametrize("piece", [b"x" * 3000, b"a: b\r\n" * 500])
def test_headers_without_end_are_a_431(client, piece):
    client.sendall(GET)
    is_cut_off(client, [piece] * 40)
    answer = rest(client)
    assert answer == b"" or status_of(answer) == 431  # the kernel drops it where bytes came behind the refusal


def test_trailers_without_end_behind_a_body_are_cut_off(client):
    client.sendall(POST + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n")
    assert is_cut_off(client, [b"x-more: " + b"y" * 1000 + b"\r\n"] * 1000)


def test_a_body_that_drips_is_a_408(client):
    client.sendall(POST + b"content-length: 100000\r\n\r\n")
    assert drip(client, b" " * 10_000)
    assert status_of(rest(client)) == 408


def test_a_body_that_drips_where_none_is_wanted_is_cut_off(client):
    client.sendall(GET + b"content-length: 100000\r\n\r\n")
    assert status_of(one_answer(client)) == 200
    client.settimeout(LONGEST_S)
    assert drip(client, b" " * 10_000)


def test_a_client_that_does_not_take_its_answer_is_cut_off(client):
    client.sendall(b"GET /large HTTP/1.1\r\nhost: a\r\n\r\n")
    time.sleep(3.0)
    assert len(rest(client)) < 64 << 20


def test_a_client_that_takes_its_answer_slowly_gets_it_whole(client):
    client.sendall(b"GET /large HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
    taken = 0
    for _ in range(10):
        taken += len(client.recv(2 << 20))
        time.sleep(0.2)
    assert taken + len(rest(client)) > 64 << 20


def test_what_is_no_http_is_a_400_problem(client):
    client.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
    answer = rest(client)
    assert status_of(answer) == 400
    assert json.loads(answer.rpartition(b"\r\n\r\n")[2])["title"] == "bad request"


@pytest.mark.parametrize("framing", [b"content-length: 20000000\r\n\r\n", b"transfer-encoding: chunked\r\n\r\n"])
def test_a_client_that_sends_too_much_reads_the_413_and_no_reset(client, framing):
    client.sendall(POST + framing)
    chunk = b"%x\r\n%s\r\n" % (1 << 16, b" " * (1 << 16)) if b"chunked" in framing else b" " * (1 << 16)
    for _ in range(24):
        client.sendall(chunk)
    assert status_of(rest(client)) == 413


def test_one_connection_too_many_is_a_503_and_the_others_go_on(address, client):
    with_them = [socket.create_connection(address, timeout=LONGEST_S) for _ in range(7)]
    try:
        with socket.create_connection(address, timeout=LONGEST_S) as ninth:
            answer = rest(ninth)
        assert status_of(answer) == 503
        assert b"retry-after: 1" in answer
        client.sendall(GET + b"\r\n")
        assert status_of(one_answer(client)) == 200
    finally:
        for connection in with_them:
            connection.close()
