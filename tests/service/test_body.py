import json

import pytest

ITEM = {"id": "a", "prompt": "p", "completion": "c"}
JSON = {"content-type": "application/json"}


def body(**changes):
    return {"items": [{**ITEM, **changes}]}


def test_a_valid_batch_is_read(service):
    assert service("POST", "/echo", json=body()).json() == {"items": 1}


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b'{"items": [{"id": "a", "prompt": "p", "completion": "c", "ground_truth": NaN}]}', 422),
        (b'{"items": [{"id": "a", "prompt": "p", "completion": "c", "ground_truth": -Infinity}]}', 422),
        (b'{"items": [{"id": "a", "prompt": "p", "completion": "c", "ground_truth": 1e999}]}', 422),
        (b'{"items": [{"id": "a", "prompt": "p", "completion": "\\ud800"}]}', 422),
        (b'{"items": [{"id": "a", "prompt": "p", "completion": "c", "ground_truth": ' + b"9" * 5000 + b"}]}", 422),
        (b'\xef\xbb\xbf{"items": []}', 422),
        (b"[" * 9000, 422),
        (b'{"a":' * 1800, 422),
        (b"", 415),
        (b"{", 415),
        (b"items=1", 415),
        (b"\xff\xfe", 415),
        (b"null", 422),
        (b"[]", 422),
        (b'"text"', 422),
        (b"{}", 422),
    ],
)
def test_a_body_that_cannot_be_used_is_refused(service, content, status):
    answer = service("POST", "/echo", content=content, headers=JSON)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("payload", "place"),
    [
        ({"items": []}, "items: too_short"),
        ({"items": [{**ITEM, "promt": "x"}]}, "items.0.prompt?: extra_forbidden"),
        ({"items": [{"id": "a", "prompt": "p"}]}, "items.0.completion: missing"),
        ({"items": [{**ITEM, "completion": 5}]}, "items.0.completion: string_type"),
        ({"items": [{**ITEM, "id": 5}]}, "items.0.id: string_type"),
        ({"items": [{**ITEM, "id": ""}]}, "items.0.id: string_too_short"),
        ({"items": [ITEM, ITEM]}, "items.1.id: duplicate"),
        ({"items": [ITEM], "judges": [{"name": "x", "paramters": {}}]}, "parameters?: extra_forbidden"),
    ],
)
def test_a_422_names_the_place_and_the_kind_of_error(service, payload, place):
    answer = service("POST", "/echo", json=payload)
    assert answer.status_code == 422
    assert place in answer.json()["detail"]


def test_a_422_never_echoes_the_input(service):
    secret = "the patient's name is Ada"
    answer = service("POST", "/echo", json={"items": [{**ITEM, "id": {"x": secret}, secret: secret}], secret: secret})
    assert answer.status_code == 422
    assert secret not in answer.text


def test_too_many_items_are_a_413(service):
    answer = service("POST", "/echo", json={"items": [{**ITEM, "id": str(i)} for i in range(4)]})
    assert answer.status_code == 413
    assert "4, at most 3" in answer.json()["detail"]


@pytest.mark.parametrize(
    "changes",
    [
        {"completion": "x" * 101},
        {"prompt": [{"role": "user", "content": "x" * 99}]},
        {"metadata": {"column": ["x" * 60, {"deep": "y" * 60}]}},
        {"ground_truth": "x" * 101},
        {"metadata": {"k" * 101: 1}},
    ],
)
def test_an_item_that_is_too_long_is_a_413_wherever_its_text_hides(service, changes):
    answer = service("POST", "/echo", json=body(**changes))
    assert answer.status_code == 413
    assert answer.json()["title"] == "item too long"


def test_a_large_body_is_read_like_a_small_one(build, send):
    from service.settings import ServiceSettings

    app = build(ServiceSettings())
    assert send(app, "POST", "/echo", json=body(completion="x" * 1_000_000)).json() == {"items": 1}


def test_nesting_that_json_allows_does_not_crash_the_service(service):
    content = json.dumps(body()).replace('"c"', '"c", "ground_truth": ' + "[" * 1000 + "]" * 1000).encode()
    answer = service("POST", "/echo", content=content, headers=JSON)
    assert answer.status_code in (200, 422)
    assert len(answer.text) < 1000
