# An LLM server for trying out LLM judges: `transformers serve`, with the embedded model that the trainer's image builds.
ARG BASE=python:3.11-slim

FROM ${BASE} AS requirements
COPY pyproject.toml deploy/requirements.py ./
RUN python3 requirements.py llm > requirements.txt

FROM ${BASE} AS build
ARG TORCH_INDEX=
ARG CGPO_TORCH=
WORKDIR /src
COPY constraints.txt ./
COPY --from=requirements requirements.txt ./
COPY scripts/install-torch scripts/
RUN python3 -m venv /venv \
    && scripts/install-torch /venv/bin/python \
    && /venv/bin/pip install --no-cache-dir --no-compile --constraint constraints.txt --requirement requirements.txt \
    && rm -rf /venv/lib/python3*/site-packages/torch/include \
    # without what is hardly ever imported: the root is read-only, so what is not compiled here never is
    && python3 -m compileall -q -j 0 -x 'transformers/models/|/tests?/|torch/(testing|_inductor)/|/pip/' /venv/lib
RUN /venv/bin/pip uninstall --yes pip

FROM ${BASE}
COPY --from=build /venv /venv
COPY service/probe.py /app/probe.py
RUN useradd --uid 10001 --no-create-home --home-dir /tmp cgpo
USER 10001
WORKDIR /app
ENV PATH=/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 GOMP_SPINCOUNT=1000 HF_HUB_OFFLINE=1 HF_HOME=/tmp/hf
EXPOSE 8000
HEALTHCHECK --interval=5s --timeout=5s --start-period=120s --retries=24 \
    CMD ["python", "/app/probe.py", "http://127.0.0.1:8000/health"]
CMD ["transformers", "serve", "--host", "0.0.0.0", "--port", "8000"]
