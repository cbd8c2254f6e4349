"""Request bodies in, JSON answers out: parsed strictly, refused without an echo, written fast.

A body that is not JSON is a 415; JSON that does not fit (NaN, Infinity, 1e999, a lone surrogate, too deep, an unknown
field, an empty batch, a duplicate id) is a 422 that names the place and the kind of error, never the value.
"""

import json
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from typing import Any, Protocol, TypeVar, cast

import orjson
from anyio import to_thread
from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from service.problem import ProblemError
from service.settings import ServiceSettings

JSON_TYPE = "application/json"
LARGE_BODY = 256 * 1024
"""Bodies above this size, bytes, are parsed in a thread, so that they do not hold up the event loop."""

SHOWN_ERRORS = 8
SHOWN_PARTS = 6

ModelT = TypeVar("ModelT", bound=BaseModel)


class _Item(Protocol):
    @property
    def id(self) -> str: ...


async def read_json(request: Request, model: type[ModelT]) -> ModelT:
    """Return the request's body as `model`, its `items` checked for duplicate ids and the service's limits.

    Raises:
        ProblemError: 415, 413 or 422 as the module says.
    """
    body = await request.body()
    settings: ServiceSettings = request.app.state.settings
    if len(body) > LARGE_BODY:
        return await to_thread.run_sync(_parse, body, model, settings)
    return _parse(body, model, settings)


def json_response(content: BaseModel | bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a model, or bytes that are JSON already, as the answer."""
    body = content if isinstance(content, bytes) else content.__pydantic_serializer__.to_json(content)
    return Response(body, status_code=status, media_type=JSON_TYPE, headers=dict(headers or {}))


def json_body(model: type[BaseModel]) -> dict[str, Any]:
    """Return what a route that calls `read_json` says of its body in the OpenAPI document (`openapi_extra=`)."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    return {"requestBody": {"required": True, "content": {JSON_TYPE: {"schema": schema}}}}


def _parse(body: bytes, model: type[ModelT], settings: ServiceSettings) -> ModelT:
    content = _load(body)
    try:
        parsed = model.model_validate(content)
    except ValidationError as error:
        raise ProblemError(422, "invalid request", _describe(error, model)) from None
    except RecursionError:
        raise _too_deep() from None
    items = getattr(parsed, "items", None)
    if isinstance(items, list):
        check_items(cast("list[_Item]", items), settings)
    return parsed


def _load(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if "depth" in str(error):
            raise _too_deep() from None
    # orjson refuses NaN and broken text with the same error: only the standard parser, which takes them, tells
    # whether this is JSON that cannot be used or no JSON at all.
    try:
        json.loads(body)
    except RecursionError:
        raise _too_deep() from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise ProblemError(415, "not JSON", "the body must be one JSON document in UTF-8") from None
    except ValueError:
        raise ProblemError(422, "invalid request", "body: a number has too many digits; send it as a string") from None
    raise ProblemError(
        422, "invalid request", "body: NaN, Infinity, a number beyond float64, a lone surrogate or a BOM is not allowed"
    )


def _too_deep() -> ProblemError:
    return ProblemError(422, "invalid request", "body: nested too deeply")


def _describe(error: ValidationError, model: type[BaseModel]) -> str:
    """Return place and kind of each error, `items.0.completion: missing; ...`, without any value of the input."""
    errors = error.errors(include_input=False, include_url=False, include_context=False)
    lines = [f"{_place(entry['loc'], _names(model))}: {entry['type']}" for entry in errors[:SHOWN_ERRORS]]
    if len(errors) > SHOWN_ERRORS:
        lines.append(f"and {len(errors) - SHOWN_ERRORS} more")
    return "; ".join(lines)


def _place(location: tuple[int | str, ...], names: frozenset[str]) -> str:
    """Return where an error is, in names that are ours: a key of the input may be anything, a user's text too.

    What was meant for one of ours is shown as that, `prompt?` for `promt`; the rest as `?`.
    """
    shown = location[:SHOWN_PARTS]
    parts = [str(part) if isinstance(part, int) or part in names else _meant(part, names) for part in shown]
    return ".".join(parts) or "body"


def _meant(key: str, names: frozenset[str]) -> str:
    return "".join(get_close_matches(key[:64], names, n=1)) + "?"


@cache
def _names(model: type[BaseModel]) -> frozenset[str]:
    """Return the names of a body's fields and of the models in it."""
    schema = model.model_json_schema()
    parts = schema.get("$defs", {})
    return frozenset(parts).union(*(part.get("properties", {}) for part in [schema, *parts.values()]))


def check_items(items: list[_Item], settings: ServiceSettings) -> None:
    """Refuse a batch that is too long (413), has an item that is too long (413), or repeats an id (422)."""
    if len(items) > settings.items_per_request:
        raise ProblemError(
            413, "too many items", f"items: {len(items)}, at most {settings.items_per_request} in one request"
        )
    seen: set[str] = set()
    for index, item in enumerate(items):
        if item.id in seen:
            raise ProblemError(422, "invalid request", f"items.{index}.id: duplicate; ids are unique in a request")
        seen.add(item.id)
        length = sum(_lengths(item))
        if length > settings.characters_per_item:
            detail = f"items.{index}: {length} characters, at most {settings.characters_per_item} in one item"
            raise ProblemError(413, "item too long", detail)


def _lengths(value: object) -> Iterator[int]:
    """Yield the length of every string below `value`; iterative, because input may be nested a thousand deep."""
    stack = [value]
    while stack:
        current = stack.pop()
        if isinstance(current, str):
            yield len(current)
        elif isinstance(current, BaseModel):
            stack.extend(current.__dict__.values())
        elif isinstance(current, dict):
            stack.extend(current.keys())
            stack.extend(current.values())
        elif isinstance(current, (list, tuple)):
            stack.extend(current)
