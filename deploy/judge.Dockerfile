# The judge service: rule judges, the sandbox, and the client of LLM judges. No torch, no transformers.
ARG BASE=python:3.11-slim

FROM ${BASE} AS requirements
COPY pyproject.toml deploy/requirements.py ./
RUN python3 requirements.py judge > requirements.txt

FROM ${BASE} AS build
WORKDIR /src
COPY constraints.txt ./
COPY --from=requirements requirements.txt ./
RUN python3 -m venv /venv \
    && python3 -m venv /tools \
    && /tools/bin/pip install --no-cache-dir --constraint constraints.txt hatchling editables \
    && /venv/bin/pip install --no-cache-dir --no-compile --constraint constraints.txt --requirement requirements.txt \
    # what if-verifiable asks for and the judges never import: the datasets that its benchmark came from
    && /venv/bin/pip uninstall --yes datasets pandas pyarrow fsspec aiohttp dill multiprocess xxhash huggingface_hub hf_xet \
    # sentences are split by the English rules
    && find /venv/lib/python3*/site-packages/punkt/data -name '*.py' \
        ! -name __init__.py ! -name curated.py ! -name prefixes.py ! -name english.py -delete \
    # what only compilers and type checkers read
    && find /venv \( -name '*.py[ix]' -o -name '*.pxd' -o -name '*.[ch]' -o -name '*.a' \) -delete \
    && find /venv -name tests -type d -prune -exec rm -rf {} + \
    && python3 -m compileall -q -j 0 -x '/(pip|setuptools)/' /venv/lib
COPY pyproject.toml README.md LICENSE ./
COPY wire wire
COPY service service
COPY judge_service judge_service
COPY reward_service reward_service
COPY trainer trainer
RUN /tools/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir dist . \
    && /venv/bin/pip install --no-cache-dir --no-deps dist/*.whl \
    && /venv/bin/pip uninstall --yes setuptools pip

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
