# The image of the service. Each container runs one command of the Procfile; docs/deploying.md explains how.
#
#   docker build --tag image-pipeline .
#   docker build --tag image-pipeline-servers --target servers .    stand-ins for SQS, S3 and MongoDB, for development
#
# If pip needs settings to reach an index, pass them as secrets, which no layer keeps:
# `--secret id=pip.conf,src=pip.conf --secret id=pip.pem,src=ca.pem`. pip.conf names the second /run/secrets/pip.pem.
FROM python:3.13-slim@sha256:7c61056e61ac89e852de05f3dc6fa51a6dd2181797bceed46aa725dd7cb2cd3b AS base
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1

FROM base AS build
ENV PIP_CONFIG_FILE=/run/secrets/pip.conf \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_QUIET=1
WORKDIR /src
RUN python3 -m venv /opt/venv

FROM build AS product
COPY requirements/base.lock requirements/
RUN --mount=type=secret,id=pip.conf --mount=type=secret,id=pip.pem \
    pip install --require-hashes -r requirements/base.lock
COPY pyproject.toml README.md LICENSE Procfile ./
COPY actors actors
COPY pipeline pipeline
# The service does not need the tools that install it.
RUN pip install --no-deps --no-build-isolation . && pip check && pip uninstall --yes setuptools pip

# The list of everything that was installed, in the format CycloneDX.
FROM build AS sbom
COPY requirements/audit.lock requirements/
RUN --mount=type=secret,id=pip.conf --mount=type=secret,id=pip.pem \
    pip install --require-hashes -r requirements/audit.lock
COPY pyproject.toml README.md ./
COPY --from=product /opt/venv /opt/product
RUN cyclonedx-py environment --pyproject pyproject.toml --output-file sbom.cdx.json /opt/product/bin/python

FROM build AS installed-servers
COPY requirements/servers.lock requirements/
RUN --mount=type=secret,id=pip.conf --mount=type=secret,id=pip.pem \
    pip install --require-hashes -r requirements/servers.lock

# Never for production.
FROM base AS servers
COPY --from=installed-servers /opt/venv /opt/venv
USER 65534:65534
CMD ["ministack"]

FROM base AS service
ARG VERSION=unreleased
ARG REVISION=unknown
LABEL org.opencontainers.image.title="image-pipeline" \
      org.opencontainers.image.description="Podcast covers from any feed to every size your apps need" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
COPY --from=product /opt/venv /opt/venv
COPY --from=sbom /src/sbom.cdx.json /usr/share/doc/image-pipeline/
ENV HOME=/tmp \
    LEVEL=INFO \
    METRICS_HOST=0.0.0.0
# dramatiq imports from the current folder, so it must not be writable.
WORKDIR /
USER 65534:65534
EXPOSE 9191
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ.get('METRICS_PORT', '9191') + '/livez', timeout=5)"]
CMD ["image-pipeline", "--help"]
