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
from service.health import health_router
from service.metrics import Metrics, metrics_router
from service.problem import MEDIA_TYPE, ProblemError, problem_response
from service.settings import ServiceSettings
from service.traffic import Traffic
from wire.base import Problem

SHOWN_PROBLEMS = {"4XX": "refused: see `title` and `detail`", "5XX": "failed: ask again"}


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
        responses=_documented_problems(),
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
    _document_bodies(app)
    return app


def _documented_problems() -> dict[int | str, dict[str, Any]]:
    content = {MEDIA_TYPE: {"schema": Problem.model_json_schema()}}
    return {status: {"description": text, "content": content} for status, text in SHOWN_PROBLEMS.items()}


def _document_bodies(app: FastAPI) -> None:
    """Move the definitions that `json_body` carries to where the OpenAPI document keeps its schemas."""
    build = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = build()
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            for operations in document["paths"].values():
                for operation in operations.values():
                    for media in operation.get("requestBody", {}).get("content", {}).values():
                        schemas.update(media["schema"].pop("$defs", {}))
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


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
