"""Prometheus metrics: one registry per app, labelled by route template and never by user text."""

from collections.abc import Callable

from fastapi import APIRouter
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.responses import Response

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """The metrics of one app. A service adds its own to `registry`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        labels = ("method", "route")
        self.requests = Counter("http_requests", "requests answered", (*labels, "status"), registry=self.registry)
        self.seconds = Histogram(
            "http_request_seconds", "time to the last byte", labels, buckets=BUCKETS_S, registry=self.registry
        )
        self.in_flight = Gauge("http_requests_in_flight", "requests with a body in flight", registry=self.registry)
        self.bytes_in_flight = Gauge("http_bytes_in_flight", "bytes of the bodies in flight", registry=self.registry)

    def describe(self, name: str, version: str, readiness: Callable[[], list[str]]) -> None:
        """Export which service this is, and whether it is ready at the time that it is asked."""
        Info("service", "name and version", registry=self.registry).info({"name": name, "version": version})
        ready = Gauge("service_ready", "1 while /readyz is green, else 0", registry=self.registry)
        ready.set_function(lambda: float(not readiness()))

    def record(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        method = method if method in METHODS else "OTHER"
        self.requests.labels(method, route, str(status)).inc()
        self.seconds.labels(method, route).observe(seconds)


def metrics_router(metrics: Metrics) -> APIRouter:
    """Return the router of `GET /metrics`."""
    router = APIRouter(tags=["operations"])

    @router.get("/metrics", summary="Prometheus metrics", response_class=Response)
    async def get_metrics() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return router
