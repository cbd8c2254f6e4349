"""`POST /score` as vLLM serves it, and `POST /rerank` as vLLM, Cohere and Jina do.

Here the first text is what was asked and the second what was answered: each pair is read in the reward model's chat
template, as user and assistant, and what spells a control token is text.

Source: vLLM, `ScoreRequest`, `RerankRequest` and their responses; Cohere, `POST /v2/rerank`; Jina, `POST /v1/rerank`.
"""

from typing import Any

from fastapi import APIRouter
from pydantic import Field, model_validator
from starlette.requests import Request
from starlette.responses import Response

from reward_service.adapters.asking import Asking, error_responses, failing_as
from reward_service.adapters.openai_shape import OpenAIAnswer, OpenAIErrorResponse, openai_error, usage_of
from reward_service.adapters.vllm_classify import Activation, Texts, Truncation, activated
from reward_service.items import LabelScore
from service.body import json_body, json_response, read_json
from service.foreign import ForeignRequest
from service.problem import ProblemError
from wire.base import ResponseModel
from wire.reward import ScoreItem

ERRORS = error_responses(OpenAIErrorResponse, 400, 404, 429, 503)


class PairScoreRequest(Activation, Truncation):
    """Body of `POST /score`: one first text for all the second ones, or as many."""

    model: str | None = None
    text_1: str | Texts = Field(description="what was asked")
    text_2: str | Texts = Field(description="what was answered")

    @model_validator(mode="before")
    @classmethod
    def _other_names(cls, body: Any) -> Any:
        """Return the body with vLLM's newer names, `queries` and `documents`, as its older ones."""
        if isinstance(body, dict) and "queries" in body:
            body = {"text_1": body["queries"], "text_2": body.get("documents"), **body}
        return body

    @model_validator(mode="after")
    def _pairs(self) -> "PairScoreRequest":
        asked, answered = _several(self.text_1), _several(self.text_2)
        if len(asked) not in (1, len(answered)):
            raise ProblemError(422, "invalid request", "text_1 is one text, or as many as text_2")
        return self

    def items(self) -> list[ScoreItem]:
        """Return the pairs."""
        asked, answered = _several(self.text_1), _several(self.text_2)
        asked = asked * len(answered) if len(asked) == 1 else asked
        pairs = zip(asked, answered, strict=True)
        return [ScoreItem(id=str(i), prompt=prompt, completion=text) for i, (prompt, text) in enumerate(pairs)]


class PairScore(ResponseModel):
    """One pair's number."""

    index: int
    object: str = "score"
    score: float = Field(description="sigmoid of the reward model's number; the number itself without activation")


class PairScoreResponse(OpenAIAnswer):
    """Answer of `POST /score`."""

    data: list[PairScore]


class Document(ForeignRequest):
    """A document that is an object."""

    text: str


class RerankRequest(Activation, Truncation):
    """Body of `POST /rerank`."""

    model: str | None = None
    query: str = Field(description="what was asked")
    documents: list[str | Document] = Field(min_length=1, description="what was answered")
    top_n: int | None = Field(default=None, ge=0, description="how many of the best to return; 0: all")
    return_documents: bool = True

    def texts(self) -> list[str]:
        """Return the documents as texts."""
        return [document if isinstance(document, str) else document.text for document in self.documents]


class RankedText(ResponseModel):
    """A document."""

    text: str


class Ranked(ResponseModel):
    """One document's place."""

    index: int = Field(description="place of the document in the request")
    document: RankedText | None = None
    relevance_score: float = Field(description="sigmoid of the reward model's number; the number without activation")


class RerankResponse(OpenAIAnswer):
    """Answer of `POST /rerank`: the best document first."""

    results: list[Ranked]


def router(asking: Asking) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(tags=["adapters"])

    @routes.post(
        "/score",
        summary="Score pairs of texts, as vLLM does",
        response_model=PairScoreResponse,
        responses=ERRORS,
        openapi_extra=json_body(PairScoreRequest),
    )
    @failing_as(openai_error)
    async def score(request: Request) -> Response:
        body = await read_json(request, PairScoreRequest)
        model, scores = await _scores(request, body.model, body.items(), body)
        data = [PairScore(index=i, score=_number(score, body)) for i, score in enumerate(scores)]
        return json_response(PairScoreResponse(model=model, data=data, usage=usage_of(scores)))

    @failing_as(openai_error)
    async def rerank(request: Request) -> Response:
        body = await read_json(request, RerankRequest)
        texts = body.texts()
        items = [ScoreItem(id=str(i), prompt=body.query, completion=text) for i, text in enumerate(texts)]
        model, scores = await _scores(request, body.model, items, body)
        # By the raw numbers: of two large ones the sigmoids may be the same float.
        order = sorted(range(len(texts)), key=lambda i: scores[i].logits[0], reverse=True)
        results = [
            Ranked(
                index=i,
                document=RankedText(text=texts[i]) if body.return_documents else None,
                relevance_score=_number(scores[i], body),
            )
            for i in order[: body.top_n or None]
        ]
        return json_response(RerankResponse(model=model, results=results, usage=usage_of(scores)))

    for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
        routes.post(
            path,
            summary="Rank answers, as vLLM, Cohere and Jina do",
            response_model=RerankResponse,
            responses=ERRORS,
            openapi_extra=json_body(RerankRequest),
        )(rerank)

    async def _scores(
        request: Request, asked_for: str | None, items: list[ScoreItem], truncation: Truncation
    ) -> tuple[str, list[LabelScore]]:
        model = asking.reward_model(asked_for)
        scores = await asking.numbers(request, items, model)
        truncation.check(scores, asking.max_length[model])
        return model, scores

    return routes


def _number(score: LabelScore, activation: Activation) -> float:
    return activated(score.logits)[0] if activation.is_wanted else score.logits[0]


def _several(text: str | list[str]) -> list[str]:
    return [text] if isinstance(text, str) else text
