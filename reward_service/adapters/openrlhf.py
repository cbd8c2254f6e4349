"""`POST /get_reward`: the reward of OpenRLHF's `--reward.remote_url`.

`query` is prompt and response with their control tokens, as the policy's tokenizer decoded them; it is read as it is.
The protocol has no place for an item without a score: where there is one, the batch is a 503 with Retry-After, and
OpenRLHF asks again.

Source: OpenRLHF, `SingleTurnAgentExecutor._fetch_rewards_via_http` and `openrlhf.cli.serve_rm`.
"""

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from reward_service.adapters.asking import NO_SCORE, Asking
from reward_service.items import Text
from service.body import json_body, json_response, read_json
from service.foreign import ForeignRequest
from wire.base import JSON, ResponseModel


class GetRewardRequest(ForeignRequest):
    """Body of `POST /get_reward`."""

    query: list[str] = Field(min_length=1, description="prompt and response as one text, control tokens included")
    prompts: list[JSON] | None = Field(default=None, description="not read: query has them")
    labels: list[JSON] | None = Field(default=None, description="not read: a reward model knows no gold answer")


class GetRewardResponse(ResponseModel):
    """Answer of `POST /get_reward`: a number for each query."""

    rewards: list[float]
    scores: list[float] = Field(description="the same as rewards; OpenRLHF filters samples by it")
    extra_logs: dict[str, list[float]] = Field(description="truncated: 1 where only the end of the query was read")


def router(asking: Asking) -> APIRouter:
    """Return the route."""
    routes = APIRouter(tags=["adapters"])

    @routes.post(
        "/get_reward",
        summary="Score texts, as OpenRLHF's remote reward model does",
        response_model=GetRewardResponse,
        responses=NO_SCORE,
        openapi_extra=json_body(GetRewardRequest),
    )
    async def get_reward(request: Request) -> Response:
        body = await read_json(request, GetRewardRequest)
        model = asking.reward_model(None)
        items = [Text(str(i), text, special_tokens=False) for i, text in enumerate(body.query)]
        scores = await asking.numbers(request, items, model)
        rewards = [score.logits[0] for score in scores]
        truncated = [float(score.truncated) for score in scores]
        return json_response(GetRewardResponse(rewards=rewards, scores=rewards, extra_logs={"truncated": truncated}))

    return routes
