# The reward service: any Hugging Face sequence classifier, on CPU or GPU.
ARG BASE=python:3.11-slim

FROM ${BASE} AS requirements
COPY pyproject.toml deploy/requirements.py ./
RUN python3 requirements.py reward > requirements.txt

FROM ${BASE} AS build
ARG TORCH_INDEX=
ARG CGPO_TORCH=
WORKDIR /src
COPY constraints.txt ./
COPY --from=requirements requirements.txt ./
COPY scripts/install-torch scripts/
RUN python3 -m venv /venv \
    && python3 -m venv /tools \
    && /tools/bin/pip install --no-cache-dir --constraint constraints.txt hatchling editables \
    && scripts/install-torch /venv/bin/python \
    && /venv/bin/pip install --no-cache-dir --no-compile --constraint constraints.txt --requirement requirements.txt \
    && rm -rf /venv/lib/python3*/site-packages/torch/include \
    # without what is hardly ever imported: the root is read-only, so what is not compiled here never is
    && python3 -m compileall -q -j 0 -x 'transformers/models/|/tests?/|torch/(testing|_inductor)/|/pip/' /venv/lib
COPY pyproject.toml README.md LICENSE ./
COPY wire wire
COPY service service
COPY judge_service judge_service
COPY reward_service reward_service
COPY trainer trainer
RUN /tools/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir dist . \
    && /venv/bin/pip install --no-cache-dir --no-deps dist/*.whl \
    && /venv/bin/pip uninstall --yes pip

FROM ${BASE}
COPY --from=build /venv /venv
RUN useradd --uid 10001 --no-create-home --home-dir /tmp cgpo
USER 10001
WORKDIR /tmp
ENV PATH=/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 GOMP_SPINCOUNT=1000 \
    REWARD_SERVICE_HOST=0.0.0.0 REWARD_SERVICE_PORT=8002
EXPOSE 8002
HEALTHCHECK --interval=5s --timeout=5s --start-period=120s --retries=24 \
    CMD ["python", "-m", "service.probe", "http://127.0.0.1:8002/readyz"]
CMD ["reward-service"]
