"""`POST /predict` as Text Embeddings Inference serves it.

A string is read as it is. A pair is what was asked and what was answered, in the chat template.

Source: Text Embeddings Inference, `PredictRequest`, `Prediction`, `ErrorResponse` of its OpenAPI document.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from reward_service.adapters.asking import Asking, ScoresFailed, error_responses, failing_as
from reward_service.adapters.vllm_classify import activated
from reward_service.items import Item, LabelScore, Text
from service.body import json_body, json_response, read_json
from service.foreign import ForeignRequest
from service.problem import ProblemError
from wire.base import ResponseModel
from wire.reward import ScoreItem

Pair = Annotated[list[str], Field(min_length=2, max_length=2)]
Input = Annotated[list[str], Field(min_length=1, max_length=2)]


class PredictRequest(ForeignRequest):
    """Body of `POST /predict`."""

    inputs: str | Pair | Annotated[list[Input], Field(min_length=1)] = Field(
        description="a text, a pair of texts, or a batch: a list of lists of one text or two"
    )
    raw_scores: bool = Field(default=False, description="the model's own numbers, not probabilities")
    truncate: bool | None = Field(default=False, description="whether a text that is too long loses its beginning")
    # "Right", the default of the protocol, would cut off the end that a reward model reads its number off.
    truncation_direction: Literal["left", "Left", "right", "Right"] = Field(default="right")

    @property
    def is_batch(self) -> bool:
        """Whether the answer is a list of predictions for each input."""
        return isinstance(self.inputs, list) and isinstance(self.inputs[0], list)

    def items(self) -> list[Item]:
        """Return the inputs."""
        inputs = self.inputs if self.is_batch else [self.inputs]
        return [_item(str(i), [one] if isinstance(one, str) else one) for i, one in enumerate(inputs)]


class Prediction(ResponseModel):
    """One label's number."""

    score: float
    label: str


class TEIError(ResponseModel):
    """An error as Text Embeddings Inference has it."""

    error: str
    error_type: Literal["unhealthy", "backend", "overloaded", "validation", "tokenizer"]


def router(asking: Asking) -> APIRouter:
    """Return the route."""
    routes = APIRouter(tags=["adapters"])

    @routes.post(
        "/predict",
        summary="Predict labels, as Text Embeddings Inference does",
        response_model=list[Prediction] | list[list[Prediction]],
        responses=error_responses(TEIError, 413, 422, 424, 429, 503),
        openapi_extra=json_body(PredictRequest),
    )
    @failing_as(tei_error)
    async def predict(request: Request) -> Response:
        body = await read_json(request, PredictRequest)
        model = asking.named(None)
        scores = await asking.numbers(request, body.items(), model)
        too_long = next((score for score in scores if score.truncated), None)
        if too_long is not None and not body.truncate:
            detail = f"`inputs` must have at most {asking.max_length[model]} tokens. Given: {too_long.num_tokens}"
            raise ProblemError(422, detail)
        answers = [_predictions(asking.labels[model], score, body.raw_scores) for score in scores]
        return json_response(orjson.dumps(answers if body.is_batch else answers[0]))

    return routes


def tei_error(problem: ProblemError) -> Response:
    """Return a refusal as Text Embeddings Inference makes it."""
    detail = f"{problem.title}: {problem.detail}" if problem.detail else problem.title
    if isinstance(problem, ScoresFailed):
        if problem.is_retryable:
            return json_response(TEIError(error=detail, error_type="backend"), 424)
        return json_response(TEIError(error=detail, error_type="tokenizer"), 422)
    if problem.status == 429:
        return json_response(TEIError(error=detail, error_type="overloaded"), 429, problem.headers)
    if problem.status >= 500:
        return json_response(TEIError(error=detail, error_type="unhealthy"), problem.status, problem.headers)
    status = problem.status if problem.status in (413, 422) else 422
    return json_response(TEIError(error=detail, error_type="validation"), status)


def _item(id_: str, texts: Sequence[Any]) -> Item:
    return Text(id_, texts[0]) if len(texts) == 1 else ScoreItem(id=id_, prompt=texts[0], completion=texts[1])


def _predictions(labels: Sequence[str], score: LabelScore, is_raw: bool) -> list[dict[str, float | str]]:
    """Return the labels with their numbers, the largest first."""
    numbers = score.logits if is_raw else activated(score.logits)
    ranked = sorted(zip(numbers, labels, strict=True), reverse=True)
    return [Prediction(score=number, label=label).model_dump() for number, label in ranked]
