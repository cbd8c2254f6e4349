# The judge service: rule judges, the sandbox, and the client of LLM judges. No torch, no transformers.
ARG BASE=python:3.11-slim

FROM ${BASE} AS build
WORKDIR /src
COPY pyproject.toml constraints.txt ./
COPY deploy/requirements.py deploy/
RUN python3 -m venv /venv \
    && python3 deploy/requirements.py judge > requirements.txt \
    && /venv/bin/pip install --no-cache-dir --no-compile --constraint constraints.txt --requirement requirements.txt \
    # what if-verifiable asks for and the judges never import: the datasets that its benchmark came from
    && /venv/bin/pip uninstall --yes datasets pandas pyarrow fsspec aiohttp dill multiprocess xxhash huggingface_hub hf_xet \
    && /venv/bin/pip install --no-cache-dir --no-deps hatchling pathspec pluggy trove-classifiers editables
COPY README.md LICENSE ./
COPY wire wire
COPY service service
COPY judge_service judge_service
COPY reward_service reward_service
COPY trainer trainer
RUN /venv/bin/pip install --no-cache-dir --no-compile --no-deps --no-build-isolation . \
    && /venv/bin/pip uninstall --yes hatchling pathspec pluggy trove-classifiers editables setuptools pip \
    # sentences are split by the English rules
    && find /venv/lib/python3*/site-packages/punkt/data -name '*.py' \
        ! -name __init__.py ! -name curated.py ! -name prefixes.py ! -name english.py -delete \
    # what only compilers and type checkers read
    && find /venv \( -name '*.py[ix]' -o -name '*.pxd' -o -name '*.[ch]' -o -name '*.a' \) -delete \
    && find /venv -name tests -type d -prune -exec rm -rf {} + \
    && python3 -m compileall -q -j 0 /venv/lib

FROM ${BASE}
COPY --from=build /venv /venv
RUN useradd --uid 10001 --no-create-home --home-dir /tmp cgpo \
    && mkdir /secrets && chown 10001:10001 /secrets
USER 10001
WORKDIR /tmp
ENV PATH=/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 JUDGE_SERVICE_HOST=0.0.0.0 JUDGE_SERVICE_PORT=8001
EXPOSE 8001
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s --retries=12 \
    CMD ["python", "-m", "service.probe", "http://127.0.0.1:8001/readyz"]
CMD ["judge-service"]
