# The studio in a container, not as root: outputs in /data, models in /models, port 8750.
#
#   docker build -t cogvideox .                                            torch for CUDA, from the package index
#   docker build -t cogvideox --build-arg TORCH_INDEX=URL .                torch of another index, such as its CPU one
#   docker build -t cogvideox --build-arg BASE=nvidia/cuda:12.9.1-base-ubuntu24.04 .
#   docker run -p 127.0.0.1:8750:8750 -v studio:/data -v models:/models --gpus all cogvideox --model 5b
#
# docs/serving.md says more. Every step stands in docker/install.sh, which a person can run without Docker.
ARG BASE=python:3.12-slim

FROM ${BASE} AS system
COPY docker/install.sh /app/install.sh
RUN sh /app/install.sh system

FROM system AS build
ARG TORCH=torch
ARG TORCH_INDEX=
ARG EXTRAS=studio
RUN sh /app/install.sh torch /app/venv
COPY pyproject.toml README.md LICENSE /app/source/
COPY src /app/source/src
RUN sh /app/install.sh package /app/venv /app/source

FROM system
COPY --from=build /app/venv /app/venv
COPY docker/entry.sh /app/entry.sh
RUN sh /app/install.sh user
ENV PATH=/app/venv/bin:$PATH PYTHONUNBUFFERED=1 HF_HOME=/models COGVIDEOX_DATA=/data COGVIDEOX_PORT=8750
USER cogvideox
WORKDIR /data
VOLUME ["/data", "/models"]
EXPOSE 8750
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"COGVIDEOX_PORT\"]}/health', timeout=4)"]
ENTRYPOINT ["sh", "/app/entry.sh"]
