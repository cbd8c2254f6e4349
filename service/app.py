"""The assembly of a service: gate, health, metrics, problem handlers and the service's own routers."""

from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Lifespan

from service.docs import docs_router
from service.gate import Gate
from service.health import OPEN_PATHS, health_router
from service.metrics import Metrics, metrics_router
from service.problem import MEDIA_TYPE, ProblemError, problem_response
from service.settings import ServiceSettings
from service.traffic import Traffic
from wire.base import Problem

PROBLEMS = {
    400: "a header is not what it has to be, or this is no HTTP",
    401: "no token, or a wrong one",
    408: "headers or body came too slowly",
    431: "headers too large",
    500: "a bug; the log names the request's id",
    503: "not able to answer now: ask again after Retry-After, or another replica",
}
"""What any operation may answer, by status."""
BODY_PROBLEMS = {
    413: "the body, an item, or the number of items is too large",
    415: "not JSON, or compressed",
    422: "JSON that does not fit; the detail names the place",
    429: "the queue is full: ask again after Retry-After",
}
"""What an operation with a body may answer besides."""


def package_version() -> str:
    """Return the version of the installed distribution; `0+source` where it runs from a bare tree."""
    try:
        return installed_version("cgpo")
    except PackageNotFoundError:
        return "0+source"


def create_service_app(
    name: str,
    settings: ServiceSettings,
    readiness: Callable[[], list[str]],
    routers: Sequence[APIRouter] = (),
    lifespan: Lifespan[FastAPI] | None = None,
    metrics: Metrics | None = None,
) -> FastAPI:
    """Return the app of a service.

    `app.state` holds `settings`, `metrics`, `readiness`, `traffic` and `operations_port`.

    Args:
        name: name of the service, in `/version` and in the OpenAPI document.
        settings: limits, tokens, time-outs.
        readiness: returns the reasons for not being ready; empty means ready.
        routers: the service's own routes.
        lifespan: what the service starts and stops.
        metrics: metrics to which the service has added its own; new ones if not given.
    """
    metrics = metrics or Metrics()
    app = FastAPI(
        title=name,
        version=package_version(),
        lifespan=lifespan,
        docs_url=None,  # FastAPI's own pages load scripts from a CDN
        redoc_url=None,
        openapi_url="/openapi.json" if settings.serve_docs else None,
    )
    traffic = Traffic(settings, metrics.in_flight, metrics.bytes_in_flight)

    def reasons() -> list[str]:
        return traffic.reasons() + readiness()

    metrics.describe(name, app.version, reasons)
    app.state.settings = settings
    app.state.metrics = metrics
    app.state.readiness = reasons
    app.state.traffic = traffic
    app.state.operations_port = settings.operations_port
    app.include_router(health_router(name, app.version, reasons))
    if settings.serve_metrics:
        app.include_router(metrics_router(metrics))
    if settings.serve_docs:
        app.include_router(docs_router())
    for router in routers:
        app.include_router(router)
    app.add_exception_handler(ProblemError, _on_problem)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_middleware(Gate, settings=settings, metrics=metrics, traffic=traffic)
    _complete_document(app)
    return app


def _complete_document(app: FastAPI) -> None:
    """Add to the OpenAPI document what FastAPI does not know: the gate's refusals, its token, and parsed bodies."""
    build = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = build()
            components = document.setdefault("components", {})
            schemas = components.setdefault("schemas", {})
            schemas["Problem"] = Problem.model_json_schema()
            components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
            for path, operations in document["paths"].items():
                for operation in operations.values():
                    _add_problems(operation)
                    if path not in OPEN_PATHS:
                        operation["security"] = [{"bearer": []}]
                    for media in operation.get("requestBody", {}).get("content", {}).values():
                        schemas.update(media["schema"].pop("$defs", {}))
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _add_problems(operation: dict[str, Any]) -> None:
    """Add the gate's refusals to an operation's answers; a failure that it has for itself may have their form too."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    answers = operation["responses"]
    for status, text in (PROBLEMS | (BODY_PROBLEMS if "requestBody" in operation else {})).items():
        answers.setdefault(str(status), {"description": text})
    for status, answer in answers.items():
        if int(status) >= 400:
            answer["content"] = answer.get("content", {}) | content
    operation["responses"] = dict(sorted(answers.items()))


async def _on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, ProblemError)
    return problem_response(error.status, error.title, error.detail, request.state.request_id, error.headers)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail = {404: "no such path; /docs lists the paths", 405: "the path exists, the method does not fit"}
    return problem_response(
        error.status_code,
        {404: "not found", 405: "method not allowed"}.get(error.status_code, "refused"),
        detail.get(error.status_code, ""),
        request.state.request_id,
        error.headers,
    )


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    places = "; ".join(f"{'.'.join(map(str, e['loc'][:2]))}: {e['type']}" for e in error.errors()[:8])
    return problem_response(422, "invalid request", places, request.state.request_id)
