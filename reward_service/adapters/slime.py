"""`POST /rm`: the reward of slime's `--rm-type remote_rm --rm-url`.

slime sends one sample and takes the JSON of the answer for its reward, so that is a bare number. A prompt that is a
list of messages is read in the chat template; a string is what the policy saw, and is read as it is with the response
behind it. Without a score the answer is a 503 with Retry-After, and slime asks again.

Source: slime, `slime.rollout.rm_hub.remote_rm`.
"""

import orjson
from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from reward_service.adapters.asking import NO_SCORE, Asking, finished
from service.body import json_body, json_response, read_json
from service.foreign import ForeignMessage, ForeignRequest
from wire.base import JSON


class RemoteRewardRequest(ForeignRequest):
    """Body of `POST /rm`."""

    prompt: str | list[ForeignMessage] = Field(description="finished text, or messages")
    response: str = Field(description="what was generated")
    label: JSON = Field(default=None, description="not read: a reward model knows no gold answer")


def router(asking: Asking) -> APIRouter:
    """Return the route."""
    routes = APIRouter(tags=["adapters"])

    @routes.post(
        "/rm",
        summary="Score one sample, as slime's remote reward model does",
        response_model=float,
        responses=NO_SCORE,
        openapi_extra=json_body(RemoteRewardRequest),
    )
    async def rm(request: Request) -> Response:
        body = await read_json(request, RemoteRewardRequest)
        model = asking.reward_model(None)
        [score] = await asking.numbers(request, [finished("0", body.prompt, body.response)], model)
        return json_response(orjson.dumps(score.logits[0]))

    return routes
