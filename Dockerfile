# The controller's image. What each step does is in hack/image/assemble, which a test runs in a plain folder.
# Pinned by version; give PYTHON_IMAGE with a digest (python:…@sha256:…) where your policy asks for one.
ARG PYTHON_IMAGE=python:3.13.9-alpine3.22

FROM ${PYTHON_IMAGE} AS build
WORKDIR /source
COPY requirements/run.txt requirements/
COPY pyproject.toml README.md LICENSE ./
COPY hack/image/assemble hack/image/
COPY charts/job-dispatcher-worker/files charts/job-dispatcher-worker/files
COPY dispatcher dispatcher
RUN PIP_NO_CACHE_DIR=1 hack/image/assemble python3 /source /opt/job-dispatcher

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="job-dispatcher" \
      org.opencontainers.image.description="Runs one Kubernetes Job split over several clusters" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/job-dispatcher /opt/job-dispatcher
ENV PATH=/opt/job-dispatcher/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 65532:65532
WORKDIR /tmp
ENTRYPOINT ["job-dispatcher"]
CMD ["run"]
