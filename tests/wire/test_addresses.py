import asyncio
import socket

import pytest

from wire import JudgeClient
from wire.addresses import each_address
from wire.replicas import Replicas


@pytest.fixture
def resolver(monkeypatch):
    """A fake of the system's resolver: what the names in a compose file stand for."""
    names = {"judge": ["172.18.0.3", "172.18.0.2", "172.18.0.3"], "reward": ["172.18.0.4"]}

    def getaddrinfo(host, port, family=0, kind=0):
        if host not in names:
            raise socket.gaierror(-2, "Name or service not known")
        return [(family, kind, 6, "", (address, port)) for address in names[host]]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return names


async def settled(replicas, num):
    """The URLs picked one after another, once names are looked up again."""
    replicas.pick(set())
    while replicas._look is not None:
        await asyncio.sleep(0.01)
    picked = []
    for _ in range(num):
        picked.append(replicas.pick(set()))
        picked[-1].takes(1)
    return [replica.url for replica in picked]


@pytest.mark.usefixtures("resolver")
def test_a_name_with_several_addresses_is_several_replicas():
    assert each_address("http://judge:8001") == ["http://172.18.0.2:8001", "http://172.18.0.3:8001"]
    assert JudgeClient("http://judge:8001").urls == ["http://172.18.0.2:8001", "http://172.18.0.3:8001"]


@pytest.mark.usefixtures("resolver")
@pytest.mark.parametrize(
    "url",
    ["http://reward:8002", "http://unknown:1", "https://judge:8001", "http://localhost:8001", "http://127.0.0.1:8001"],
)
def test_any_other_url_is_one_place(url):
    assert each_address(url) == [url]


def test_replicas_that_come_and_go_are_followed_while_the_client_runs(resolver, monkeypatch):
    monkeypatch.setattr("wire.replicas.LOOK_S", 0.0)
    client = JudgeClient("http://judge:8001")
    transport = client._transport

    async def story():
        replicas = Replicas(client.urls, transport._is_ready, transport._find)
        old = replicas.pick(set())
        old.takes(1)
        resolver["judge"] = ["172.18.0.3", "172.18.0.9"]  # .2 was replaced
        assert await settled(replicas, 2) == ["http://172.18.0.3:8001", "http://172.18.0.9:8001"]
        resolver["judge"] = ["172.18.0.3", "172.18.0.9", "172.18.0.10"]  # one more was started
        assert "http://172.18.0.10:8001" in await settled(replicas, 3)
        lost = resolver.pop("judge")  # names cannot be resolved for a while: those that are known stay
        assert len(set(await settled(replicas, 3))) == 3
        resolver["judge"] = lost[:1]
        assert await settled(replicas, 1) == ["http://judge:8001"]

    asyncio.run(story())
    assert client.urls == ["http://judge:8001"]
