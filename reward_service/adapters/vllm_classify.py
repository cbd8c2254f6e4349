"""`POST /classify` and `/v1/classify` as vLLM serves them; verl's reward loop asks here.

A string is read as it is, as vLLM does: the client has put its text into a template where it needs one, and control
tokens that it spells are control tokens. Messages are read in the model's own chat template, where they are not.

Source: vLLM, `ClassificationCompletionRequest`, `ClassificationChatRequest`, `ClassificationResponse`.
"""

from typing import Annotated, Literal

from fastapi import APIRouter
from pydantic import Field, model_validator
from starlette.requests import Request
from starlette.responses import Response

from reward_service.adapters.asking import Asking, error_responses, failing_as
from reward_service.adapters.openai_shape import OpenAIAnswer, OpenAIErrorResponse, openai_error, usage_of
from reward_service.items import Conversation, Item, LabelScore, Text, sigmoid, softmax
from service.body import json_body, json_response, read_json
from service.foreign import ForeignMessage, ForeignRequest
from service.problem import ProblemError
from wire.base import ResponseModel

Texts = Annotated[list[str], Field(min_length=1)]


class Activation(ForeignRequest):
    """What vLLM's clients can say of the numbers that they want, under the three names that it has had."""

    use_activation: bool | None = Field(default=None, description="false: the model's raw numbers; true by default")
    activation: bool | None = None
    softmax: bool | None = None

    @property
    def is_wanted(self) -> bool:
        """Whether probabilities are asked for; raw numbers otherwise."""
        asked = (self.use_activation, self.activation, self.softmax)
        return next((wanted for wanted in asked if wanted is not None), True)


class Truncation(ForeignRequest):
    """What vLLM's clients can say of texts that are too long."""

    truncate_prompt_tokens: int | None = Field(
        default=None,
        ge=-1,
        description="-1: a text longer than the model reads loses its beginning; refused by default",
    )

    def check(self, scores: list[LabelScore], max_length: int) -> None:
        """Refuse what the model did not read whole, unless the client asked for that; and a cut that is not its own.

        Raises:
            ProblemError: 422.
        """
        given = self.truncate_prompt_tokens
        if given is not None and 0 <= given < max_length:
            detail = f"truncate_prompt_tokens: this model reads {max_length} tokens; send -1, or a larger number"
            raise ProblemError(422, "unsupported", detail)
        too_long = next((i for i, score in enumerate(scores) if score.truncated), None)
        if given is None and too_long is not None:
            detail = f"input {too_long} has {scores[too_long].num_tokens} tokens, the model reads {max_length}"
            raise ProblemError(422, "too long", f"{detail}; send truncate_prompt_tokens=-1 to have its end read")


class ClassificationRequest(Activation, Truncation):
    """Body of `POST /classify`: `input`, or `messages`."""

    model: str | None = None
    input: str | Texts | None = Field(default=None, description="a text or several, read as they are")
    messages: Annotated[list[ForeignMessage], Field(min_length=1)] | None = Field(
        default=None, description="one conversation, in the chat template"
    )
    add_special_tokens: bool = Field(default=True, description="whether the tokenizer adds its own, BOS or CLS")
    # Asking for another template or an open turn would be answered with another number than asked for.
    chat_template: None = None
    add_generation_prompt: Literal[False] = False
    continue_final_message: Literal[False] = False

    @model_validator(mode="after")
    def _one_of_both(self) -> "ClassificationRequest":
        if (self.input is None) == (self.messages is None):
            raise ProblemError(422, "invalid request", "send either input or messages")
        return self

    def items(self) -> list[Item]:
        """Return what is to be classified."""
        if self.messages is not None:
            return [Conversation("0", [turn.message() for turn in self.messages])]
        texts = [self.input] if isinstance(self.input, str) else self.input or []
        return [Text(str(i), text, self.add_special_tokens) for i, text in enumerate(texts)]


class Classification(ResponseModel):
    """One text's numbers."""

    index: int
    label: str | None
    probs: list[float] = Field(description="softmax of several labels, sigmoid of one; raw without activation")
    num_classes: int
    truncated: bool = Field(default=False, description="true where only the end of the text was read")


class ClassificationResponse(OpenAIAnswer):
    """Answer of `POST /classify`."""

    data: list[Classification]


def router(asking: Asking) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(tags=["adapters"])

    @failing_as(openai_error)
    async def classify(request: Request) -> Response:
        body = await read_json(request, ClassificationRequest)
        model = asking.named(body.model)
        scores = await asking.numbers(request, body.items(), model)
        body.check(scores, asking.max_length[model])
        labels = asking.labels[model]
        data = [
            Classification(
                index=index,
                label=labels[max(range(len(labels)), key=score.logits.__getitem__)],
                probs=activated(score.logits) if body.is_wanted else score.logits,
                num_classes=len(labels),
                truncated=score.truncated,
            )
            for index, score in enumerate(scores)
        ]
        return json_response(ClassificationResponse(model=model, data=data, usage=usage_of(scores)))

    for path in ("/classify", "/v1/classify"):
        routes.post(
            path,
            summary="Classify texts, as vLLM does",
            response_model=ClassificationResponse,
            responses=error_responses(OpenAIErrorResponse, 400, 404, 429, 503),
            openapi_extra=json_body(ClassificationRequest),
        )(classify)
    return routes


def activated(logits: list[float]) -> list[float]:
    """Return probabilities: of several labels their softmax, of one its sigmoid."""
    return softmax(logits) if len(logits) > 1 else [sigmoid(logits[0])]
