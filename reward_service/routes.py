"""`POST /v1/score` and `GET /v1/info`: parse, call, return."""

import time
from collections.abc import Mapping, Sequence

from fastapi import APIRouter
from prometheus_client import CollectorRegistry, Counter
from starlette.requests import Request
from starlette.responses import Response

from reward_service.batcher import Batcher
from reward_service.connection import while_connected
from service.body import json_body, json_response, read_json
from service.problem import ProblemError
from wire.base import Usage
from wire.reward import RewardServiceInfo, ScoreRequest, ScoreResponse


def reward_router(
    batcher: Batcher,
    info: RewardServiceInfo,
    labels: Mapping[str, Sequence[str]],
    registry: CollectorRegistry,
) -> APIRouter:
    """Return the reward service's own routes; what they did is counted in `registry`.

    A model with several labels has no score: `/v1/score` refuses it, and `/classify` gives its probabilities.
    """
    router = APIRouter(prefix="/v1", tags=["scores"])
    scores = Counter("reward_scores", "items answered", ["outcome"], registry=registry)
    tokens = Counter("reward_tokens", "tokens of the items answered", registry=registry)

    @router.post(
        "/score",
        summary="Score completions",
        response_model=ScoreResponse,
        responses={409: {"description": "a classifier of several labels has no score"}},
        openapi_extra=json_body(ScoreRequest),
    )
    async def score(request: Request) -> Response:
        body = await read_json(request, ScoreRequest)
        name = batcher.named(body.model)
        if len(labels[name]) > 1:
            detail = f"'{name}' has {len(labels[name])} labels, a score is one number; ask POST /classify"
            raise ProblemError(409, "a classifier has no score", detail)
        started = time.perf_counter()
        results = await while_connected(request, batcher.score(body.items, request.state.deadline, name))
        model = next(model for model in info.models if model.name == name)
        num_tokens = sum(min(result.num_tokens, model.max_length) for result in results)
        tokens.inc(num_tokens)
        for result in results:
            scores.labels(result.error.type if result.error else "scored").inc()
        usage = Usage(wall_ms=round((time.perf_counter() - started) * 1000), tokens=num_tokens)
        return json_response(
            ScoreResponse(
                model=model.name,
                revision=model.revision,
                template_sha256=model.template_sha256,
                results=results,
                usage=usage,
            )
        )

    @router.get("/info", summary="Model, template, limits", response_model=RewardServiceInfo)
    async def get_info() -> Response:
        return json_response(info)

    return router
