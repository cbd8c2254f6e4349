"""What the adapters share: items in, a number per label out, or one failure for the whole request."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from reward_service.batcher import Batcher
from reward_service.connection import while_connected
from reward_service.items import Conversation, Item, LabelScore, Text
from service.foreign import ForeignMessage
from service.problem import ProblemError
from service.settings import ServiceSettings
from wire.base import Message

Handler = Callable[[Request], Awaitable[Response]]


class ScoresFailed(ProblemError):
    """An item has no number, so the request has no answer: 503, unless the protocol has a better place for it."""

    def __init__(self, detail: str, *, is_retryable: bool) -> None:
        super().__init__(503, "no score", detail, {"Retry-After": "1"})
        self.is_retryable = is_retryable


@dataclass(frozen=True)
class Asking:
    """The models of the service, as the adapters see them.

    Args:
        batcher: scores the items.
        labels: names of each model's labels, by the model's name.
        max_length: tokens that each model reads of one item, by its name.
    """

    batcher: Batcher
    labels: Mapping[str, Sequence[str]]
    max_length: Mapping[str, int]

    def named(self, model: str | None) -> str:
        """Return which model answers. Where there is one, any name will do: clients send the path they know it by.

        Raises:
            ProblemError: 404, naming the models there are.
        """
        if len(self.labels) == 1 or model is None:
            return next(iter(self.labels))
        if model not in self.labels:
            raise ProblemError(404, "no such model", f"the models here are: {', '.join(self.labels)}")
        return model

    def reward_model(self, model: str | None) -> str:
        """Return which model answers, where a score is asked for.

        Raises:
            ProblemError: 409 for a classifier of several labels; it has none. 404 for a model that is not there.
        """
        name = self.named(model)
        if len(self.labels[name]) > 1:
            detail = f"'{name}' has {len(self.labels[name])} labels, a score is one number; ask POST /classify"
            raise ProblemError(409, "a classifier has no score", detail)
        return name

    async def numbers(self, request: Request, items: Sequence[Item], model: str) -> list[LabelScore]:
        """Return each item's numbers, in order.

        Raises:
            ScoresFailed: one of them has none.
            ProblemError: 413 for too many or too long items, 503 or 429 where the batcher takes none.
        """
        _check_size(items, request.app.state.settings)
        results = await while_connected(request, self.batcher.score(items, request.state.deadline, model))
        scored = [result for result in results if isinstance(result, LabelScore)]
        if len(scored) < len(results):
            index, error = next((i, result.error) for i, result in enumerate(results) if result.error is not None)
            raise ScoresFailed(
                f"item {index} of {len(results)} has no score: {error.detail}", is_retryable=error.retryable
            )
        return scored


def failing_as(form: Callable[[ProblemError], Response]) -> Callable[[Handler], Handler]:
    """Return a decorator that answers a handler's refusals in the form of its protocol."""

    def decorate(handler: Handler) -> Handler:
        @wraps(handler)
        async def answer(request: Request) -> Response:
            try:
                return await handler(request)
            except ProblemError as problem:
                return form(problem)

        return answer

    return decorate


def finished(id_: str, prompt: str | Sequence[ForeignMessage], response: str) -> Item:
    """Return prompt and response as one item: messages in the chat template, a string as the finished text it is."""
    if isinstance(prompt, str):
        return Text(id_, prompt + response, special_tokens=False)
    turns = [turn.message() for turn in prompt]
    return Conversation(id_, [*turns, Message(role="assistant", content=response)])


NO_SCORE: dict[int | str, dict[str, Any]] = {409: {"description": "a classifier of several labels has no score"}}
"""What routes that need a score say in the OpenAPI document."""


def error_responses(form: type[BaseModel], *statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return what a route says in the OpenAPI document of its failures, which have a form of its protocol."""
    return {status: {"description": "failed, in the form of this protocol", "model": form} for status in statuses}


def _check_size(items: Sequence[Item], settings: ServiceSettings) -> None:
    if len(items) > settings.items_per_request:
        detail = f"{len(items)} items, at most {settings.items_per_request} in one request"
        raise ProblemError(413, "too many items", detail)
    for index, item in enumerate(items):
        if (length := _length(item)) > settings.characters_per_item:
            detail = f"item {index}: {length} characters, at most {settings.characters_per_item} in one item"
            raise ProblemError(413, "item too long", detail)


def _length(item: Item) -> int:
    if isinstance(item, Text):
        return len(item.text)
    if isinstance(item, Conversation):
        return sum(len(message.content) for message in item.messages)
    prompt = [item.prompt] if isinstance(item.prompt, str) else [message.content for message in item.prompt]
    return sum(map(len, prompt)) + len(item.completion)
