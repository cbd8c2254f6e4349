"""The judge service, assembled."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI

from judge_service import golden, sandbox, upstreams
from judge_service.adapters import Asking, adapter_router
from judge_service.canaries import WatchedDesk
from judge_service.registry import Registry
from judge_service.routes import judge_router
from judge_service.runner import Runner
from judge_service.settings import JudgeSettings
from judge_service.workers import WorkerPool
from service.app import create_service_app, package_version
from service.metrics import Metrics
from wire.judge import JudgeServiceInfo

NAME = "judge-service"


def create_app(settings: JudgeSettings | None = None, llm_transport: httpx.AsyncBaseTransport | None = None) -> FastAPI:
    """Return the judge service's app; its lifespan starts and stops workers, sandbox and the desk of the LLM judges.

    Args:
        settings: what it is started with; from the environment if not given.
        llm_transport: stands in for the network to the LLM upstreams (httpx's seam for tests).
    """
    settings = settings or JudgeSettings()
    metrics = Metrics()
    desk = WatchedDesk(settings.llm, metrics.registry, llm_transport)
    registry = Registry(settings.extra_judges, settings.judge_parameters, desk.bind)
    desk.watch(registry)
    in_process = [judge for judge in registry.classes.values() if judge.runs_in == "process"]
    pool = WorkerPool(settings.workers, settings.worker_memory_bytes, in_process)
    runner = Runner(registry, pool, settings.threads, settings.coroutines, metrics.registry, desk)
    wrong_verdicts = ["the golden examples are not judged yet"]

    def readiness() -> list[str]:
        reasons = pool.problems() + wrong_verdicts + desk.problems()
        if settings.require_sandbox:
            reasons += sandbox.problems()
            reasons += [problem for judge in registry.classes.values() for problem in judge.problems()]
        return list(dict.fromkeys(reasons))

    def info() -> JudgeServiceInfo:
        return JudgeServiceInfo(
            name=NAME,
            version=package_version(),
            config_sha256=settings.config_sha256(),
            limits=settings.limits(),
            sandbox=sandbox.level(),
        )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await asyncio.gather(asyncio.to_thread(pool.start), asyncio.to_thread(registry.warm_up), sandbox.start())
        await desk.start()
        wrong_verdicts[:] = await golden.wrong_verdicts(runner)
        keeping = asyncio.create_task(golden.keep_right(wrong_verdicts, runner, pool.problems))
        try:
            yield
        finally:
            keeping.cancel()
            await desk.stop()
            await upstreams.close_client()
            await sandbox.stop()
            await asyncio.to_thread(pool.stop)
            runner.close()

    routers = [judge_router(runner, info), adapter_router(Asking(runner, settings.adapter_judges))]
    return create_service_app(NAME, settings, readiness, routers, lifespan, metrics)
