# The image of Vestry's server: the gateway alone, never an engine. Engines run in images of their own.
#
#   docker build -t vestry:0.1.0 .
#
# BASE is any Debian-like image with Python 3.11 to 3.14 as `python3`, with its venv module. The default is named
# by tag, so that a rebuild takes up the distribution's security fixes. For a build that can be repeated bit by bit,
# give the digest that your own registry shows for the image which you have examined:
#
#   docker build --build-arg BASE=python:3.13-slim-bookworm@sha256:<digest> -t vestry:0.1.0 .
#
# RUNTIME is what the result runs on; by default the same. It may be an image without shell and package manager, if
# its Python is the same version in the same place, and libstdc++ is there too.
#
# Without a network: fetch the wheels elsewhere (docs/install-compose.md says how), then
#
#   docker build --build-context wheelhouse=DIRECTORY --build-arg PIP_NO_INDEX=1 --build-arg PIP_FIND_LINKS=/wheelhouse .
ARG BASE=python:3.13-slim-bookworm
ARG RUNTIME=${BASE}

# Stands in for `--build-context wheelhouse=DIRECTORY` where none is given: empty.
FROM scratch AS wheelhouse

FROM ${BASE} AS build
# pip's own variables: an index of your own, or none at all. They do not reach the final image.
ARG PIP_NO_INDEX=
ARG PIP_FIND_LINKS=
ARG PIP_INDEX_URL=
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build

COPY server/requirements.lock server/build.lock server/
# Wheels only, each with the hash that the lock names: nothing that was not examined runs here.
RUN --mount=type=bind,from=wheelhouse,target=/wheelhouse \
    python3 -m venv /build/tools \
    && python3 -m venv --without-pip /opt/vestry \
    && /build/tools/bin/pip install --no-compile --require-hashes --only-binary :all: --no-deps -r server/build.lock \
    && /build/tools/bin/pip --python /opt/vestry/bin/python install --no-compile --require-hashes --only-binary :all: --no-deps \
        -r server/requirements.lock

COPY pyproject.toml README.md LICENSE ./
COPY server/vestry server/vestry
# The project's own wheel is built and installed without any index. The result has no pip: it installs nothing.
# Compiled here, because the file system is read-only there; and nowhere before, for what is compiled stays as it is.
RUN /build/tools/bin/pip wheel --no-index --no-build-isolation --no-deps --wheel-dir dist . \
    && /build/tools/bin/pip --python /opt/vestry/bin/python install --no-compile --no-index --no-deps dist/vestry-*.whl \
    && /build/tools/bin/pip --python /opt/vestry/bin/python check \
    && python3 -m compileall -q --invalidation-mode unchecked-hash /opt/vestry/lib \
    && install -d -m 0700 state/vestry

FROM ${RUNTIME}
ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="vestry" \
      org.opencontainers.image.description="A private model server: an authenticated, recorded, OpenAI-compatible gateway" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /opt/vestry /opt/vestry
# The one place that is written to: keys, record, secrets made at need. Give it a volume.
COPY --from=build --chown=65532:65532 /build/state /var/lib
ENV PATH=/opt/vestry/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/var/lib/vestry \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    VESTRY_CONFIG=/etc/vestry/vestry.yaml
USER 65532:65532
WORKDIR /var/lib/vestry
EXPOSE 8080 8081
STOPSIGNAL SIGTERM
# `-I`: nothing in the working directory or the environment changes what this runs; nor does a proxy, which Docker sets
# in every container where its user has one.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["/opt/vestry/bin/python", "-I", "-c", "import urllib.request as u; u.build_opener(u.ProxyHandler({})).open('http://127.0.0.1:8081/livez', timeout=2)"]
ENTRYPOINT ["vestry"]
CMD ["serve"]
