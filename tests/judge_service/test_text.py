"""What text judges share: folding, normalised answers, strict JSON, languages."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from judge_service.text import (
    NotStrictJson,
    accepted_answers,
    detect_language,
    fold,
    is_blank,
    json_depth,
    known_languages,
    normalise_answer,
    parse_json,
)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("The Eiffel Tower.", "eiffel tower"),
        ("Ｐａｒｉｓ\r\n", "paris"),
        ("Pa\u200bris", "PARIS"),
        ("\u202eParis", "paris"),
        ("cafe\u0301", "café"),
        ("1,000", "1000"),
        ("\u22125", "-5"),
        ("New\u00a0York", "new york"),
        ("twenty-one", "Twenty-One"),
    ],
)
def test_differences_that_do_not_matter_are_gone(left: str, right: str) -> None:
    assert normalise_answer(left) == normalise_answer(right)


@pytest.mark.parametrize(("left", "right"), [("-5", "5"), ("3.14", "314"), ("C++", "C"), ("?", "!"), ("A", "the")])
def test_differences_that_matter_stay(left: str, right: str) -> None:
    assert normalise_answer(left) != normalise_answer(right)


@given(st.text())
def test_folding_twice_is_folding_once(text: str) -> None:
    assert fold(fold(text)) == fold(text)


def test_ascii_is_folded_in_its_own_way_and_to_the_same() -> None:
    # Behind a text that is not ASCII it takes the long way.
    for one in map(chr, range(128)):
        for case in (True, False):
            text = f"A{one}b{one}"
            assert fold(f"é {text}", case) == f"é {fold(text, case)}"


@given(st.text())
def test_only_blank_text_normalises_to_nothing(text: str) -> None:
    assert normalise_answer(text) != "" or is_blank(text)


@pytest.mark.parametrize("text", ["", " \n", "\u200b\u2060", "\0\0", "\u00a0", "\u202e"])
def test_text_that_shows_nothing_is_blank(text: str) -> None:
    assert is_blank(text)


@pytest.mark.parametrize("text", [" [1] ", "null", '"\u202e"', "1e308", "{}"])
def test_strict_json_is_read(text: str) -> None:
    assert parse_json(text) == json.loads(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "NaN",
        "[Infinity]",
        "-Infinity",
        "1e999",
        '{"a":1,"a":2}',
        "[1] [2]",
        "[" * 100000,
        "1" * 5000,
        "\ufeff{}",
        '"\x00"',
        "'a'",
        "{a:1}",
        "[1,]",
        "01",
        "\xa0[1]",
    ],
)
def test_what_is_not_strict_json_is_refused_without_quoting_it(text: str) -> None:
    with pytest.raises(NotStrictJson) as caught:
        parse_json(text)
    assert len(str(caught.value)) < 100


def test_depth_counts_arrays_and_objects() -> None:
    assert [json_depth(value) for value in (1, [], [1], {"a": {"b": [1]}})] == [0, 0, 1, 3]


@pytest.mark.parametrize("value", [None, True, {}, [], "", " ", ["a", ""], ["a", None], [["a"]], "\u200b"])
def test_what_is_no_answer_is_none(value: object) -> None:
    assert accepted_answers(value) is None


def test_languages_are_told_the_same_in_many_threads() -> None:
    texts = {
        "en": "Where is the station, please?",
        "de": "Wo ist bitte der Bahnhof?",
        "fr": "Où est la gare, s'il vous plaît ?",
        "zh": "请问车站在哪里？",
        "ja": "駅はどこですか？",
        "ar": "أين المحطة من فضلك؟",
        "hi": "स्टेशन कहाँ है?",
        "ru": "Где находится вокзал?",
        "ko": "역이 어디에 있습니까?",
    }
    assert set(texts) <= known_languages()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(detect_language, list(texts.values()) * 50))
    assert [answer and answer[0] for answer in found] == list(texts) * 50


@pytest.mark.parametrize("text", ["", "12345 !?", "😀😀", "\0", "https://example.org/hello", "\u202e"])
def test_text_without_letters_has_no_language(text: str) -> None:
    assert detect_language(text) is None
