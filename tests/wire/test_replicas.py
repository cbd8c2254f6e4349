"""Several replicas of one service share the load; a sick one is dropped and taken back; every item is answered once."""

import asyncio
import json
from collections import Counter

import httpx
import pytest

from wire import JudgeClient, JudgeItem, RewardClient, ScoreItem, transport

URLS = ["http://a.test", "http://b.test", "http://c.test"]


def items(num):
    return [ScoreItem(id=f"i{n}", prompt="p", completion="c" * n) for n in range(num)]


class FakeReplicas:
    """Reward services behind one transport, by host: each may be down, answer a status, hang or be slow."""

    def __init__(self, scorer):
        self.perfect = scorer()
        self.state = {}
        self.delay_s = {}
        self.served = Counter()
        self.asked = Counter()
        self.probes = Counter()
        self.bytes = Counter()

    async def __call__(self, request):
        host = request.url.host[0]
        state = self.state.get(host, "up")
        if request.method == "GET":
            self.probes[host] += 1
            if state in ("down", "hung"):
                await asyncio.sleep(60 if state == "hung" else 0)
                raise httpx.ConnectError("refused")
            return httpx.Response(
                200 if state == "up" else 503, json={"status": "ok" if state == "up" else "not ready"}
            )
        self.asked[host] += 1
        self.bytes[host] += len(request.content)
        if state == "down":
            raise httpx.ConnectError("refused")
        if state == "hung":
            await asyncio.sleep(60)
        if isinstance(state, int):
            return httpx.Response(state, headers={"retry-after": "30"})
        await asyncio.sleep(self.delay_s.get(host, 0.005))
        if self.state.get(host) == "down":  # killed with the request in its hands
            raise httpx.ReadError("reset")
        self.served[host] += len(json.loads(request.content)["items"])
        return httpx.Response(200, json=self.perfect.answer(request))

    def client(self, num=2, **options):
        return RewardClient(URLS[:num], transport=httpx.MockTransport(self), **options)


@pytest.fixture
def replicas(scorer):
    return FakeReplicas(scorer)


def scores(response):
    return [score.score for score in response.results]


def test_a_slow_replica_gets_less_of_the_load(replicas):
    replicas.delay_s = {"a": 0.2, "b": 0.005}
    with replicas.client(items_per_request=16, concurrency=4) as client:
        assert scores(client.score(items(1600))) == [float(n) for n in range(1600)]
    assert 0 < replicas.served["a"] < replicas.served["b"]


def test_few_items_are_spread_over_the_replicas_too(replicas):
    replicas.delay_s = dict.fromkeys("abc", 0.05)
    with replicas.client(3) as client:
        client.score(items(60))
    assert replicas.served == {"a": 20, "b": 20, "c": 20}


def test_in_a_quiet_time_the_replicas_get_the_same_share_though_requests_differ_in_size(replicas):
    # One request at a time, every third a large one: taking turns, one of the replicas would get all of those.
    with replicas.client(3) as client:
        for n in range(36):
            client.score([ScoreItem(id="i", prompt="p" * (4000 if n % 3 else 100_000), completion="c")])
    assert sorted(replicas.asked) == ["a", "b", "c"]
    assert max(replicas.bytes.values()) < 1.2 * min(replicas.bytes.values())


def test_a_replica_that_was_away_does_not_get_all_that_it_missed(replicas, monkeypatch):
    monkeypatch.setattr("wire.replicas.FIRST_PROBE_S", 0.01)
    replicas.state["a"] = "down"
    with replicas.client() as client:
        for _ in range(40):
            client.score(items(16))
        replicas.state["a"] = "up"
        while not replicas.served["a"]:
            client.score(items(16))
        before = replicas.served.copy()
        for _ in range(20):
            client.score(items(16))
    assert {host: replicas.served[host] - before[host] for host in "ab"} == {"a": 160, "b": 160}


@pytest.mark.parametrize("num", [1, 2])
def test_more_replicas_than_items_works(replicas, num):
    with replicas.client(3) as client:
        assert scores(client.score(items(num))) == [float(n) for n in range(num)]
    assert sum(replicas.served.values()) == num


@pytest.mark.parametrize("fault", ["down", 500, 502, 503, 429])
def test_a_replica_that_fails_has_its_requests_answered_by_the_other_without_a_wait(replicas, fault):
    replicas.state["a"] = fault  # with Retry-After: 30, which nobody waits for
    with replicas.client(items_per_request=16) as client:
        response = client.score(items(320), deadline_s=20)
    assert scores(response) == [float(n) for n in range(320)]
    assert replicas.served == {"b": 320}


def test_a_sick_replica_is_left_alone_and_comes_back_when_its_readyz_is_green(replicas, monkeypatch):
    monkeypatch.setattr("wire.replicas.FIRST_PROBE_S", 0.01)
    replicas.state["a"] = 503
    with replicas.client(items_per_request=16, concurrency=2) as client:
        client.score(items(640))
        asked = replicas.asked["a"]
        assert asked < 8  # of 40 requests
        assert replicas.probes["a"] > 0
        replicas.state["a"] = "up"
        for _ in range(100):
            client.score(items(64))
            if replicas.served["a"]:
                break
    assert replicas.served["a"] > 0


def test_a_replica_that_dies_with_requests_in_its_hands_loses_none(replicas):
    replicas.delay_s = {"a": 0.1, "b": 0.01}

    def killed(request):
        replicas.state["a"] = "down"

    with replicas.client(items_per_request=16) as client:
        future = client.submit(items(640))
        while not replicas.asked["a"]:
            pass
        killed(None)
        response = future.result(timeout=60)
    assert scores(response) == [float(n) for n in range(640)]
    assert [score.id for score in response.results] == [f"i{n}" for n in range(640)]


def test_a_replica_that_hangs_has_its_requests_taken_away(replicas, monkeypatch):
    monkeypatch.setattr(transport, "SILENCE_S", 0.1)
    monkeypatch.setattr(transport, "PROBE_TIMEOUT_S", 0.1)
    replicas.state["a"] = "hung"
    with replicas.client(items_per_request=16) as client:
        assert scores(client.score(items(160), deadline_s=50)) == [float(n) for n in range(160)]
    assert replicas.served == {"b": 160}


def test_a_replica_that_only_takes_long_keeps_its_request(replicas, monkeypatch):
    monkeypatch.setattr(transport, "SILENCE_S", 0.05)
    replicas.delay_s = {"a": 0.4, "b": 0.4}
    with replicas.client() as client:
        client.score(items(16))
    assert sum(replicas.asked.values()) == 1
    assert sum(replicas.probes.values()) >= 1


def test_where_all_are_down_every_item_says_so(replicas):
    replicas.state = {"a": "down", "b": "down"}
    with replicas.client() as client:
        response = client.score(items(3), deadline_s=20)
    assert [score.error.type for score in response.results] == ["upstream"] * 3


def test_judges_are_asked_of_replicas_in_the_same_way(service):
    perfect = service()

    def answer(request):
        if request.url.host == "a.test":
            raise httpx.ConnectError("refused")
        return httpx.Response(200, json=perfect.answer(request))

    judges = [JudgeItem(id=str(n), prompt="p", completion="c") for n in range(100)]
    with JudgeClient(URLS, transport=httpx.MockTransport(answer), items_per_request=16) as client:
        results = client.judge(judges, ["j"])
    assert [(one.id, one.verdicts[0].outcome) for one in results] == [(str(n), "satisfied") for n in range(100)]


def test_the_model_that_a_client_wants_is_asked_for_and_described(scorer):
    perfect = scorer()
    bodies = []

    def answer(request):
        if request.method == "GET":
            models = [
                {"name": name, "revision": name[0], "template_sha256": f"t-{name}", "max_length": 8}
                for name in ("first", "second")
            ]
            limits = {"items_per_request": 1, "characters_per_item": 1, "body_bytes": 1}
            about = {"name": "r", "version": "1", "config_sha256": "c", "limits": limits, "models": models}
            first = {"model": "first", "revision": "f", "template_sha256": "t-first", "max_length": 8}
            return httpx.Response(200, json=about | first)
        bodies.append(json.loads(request.content))
        return httpx.Response(200, json=perfect.answer(request))

    seam = httpx.MockTransport(answer)
    with RewardClient(URLS[0], model="second", transport=seam) as client:
        client.score(items(1))
        assert client.info().template_sha256 == "t-second"
    with RewardClient(URLS[0], transport=seam) as client:
        client.score(items(1))
        assert client.info().template_sha256 == "t-first"
    assert [body.get("model") for body in bodies] == ["second", None]
