# The image of the daemon: docs/how-to/run-in-a-container.md says how to build and run it.
# Both stages start from the same image, which has Python 3.11 or newer with venv. Pin it by digest:
#   docker build --build-arg PYTHON_IMAGE=python:3.11-slim-bookworm@sha256:… -t syncer .
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
# Extras that the image has besides, such as: --build-arg EXTRAS=[snowflake]. requirements.lock does not pin these.
ARG EXTRAS=""
WORKDIR /build
COPY . source/
RUN python3 -m venv tools \
 && tools/bin/pip wheel --quiet --no-deps --wheel-dir dist ./source
# Wheels only: nothing is compiled, so neither stage has a compiler, and the image has no pip of ours.
RUN python3 -m venv --without-pip /opt/syncer \
 && tools/bin/pip --python /opt/syncer/bin/python install --quiet --no-cache-dir --only-binary :all: \
      --require-hashes -r source/requirements.lock \
 && tools/bin/pip --python /opt/syncer/bin/python install --quiet --no-cache-dir --only-binary :all: \
      "$(echo dist/*.whl)${EXTRAS}" \
 && mkdir --mode 0700 /state

FROM ${PYTHON_IMAGE}
COPY --from=build /opt/syncer /opt/syncer
# The state: the one place that it writes to, beside /tmp. By number, so that Kubernetes sees that it is not root.
COPY --from=build --chown=10001:10001 /state /var/lib/syncer
USER 10001:10001
WORKDIR /var/lib/syncer
VOLUME /var/lib/syncer
# In a container loopback reaches nobody. What these two say stands before what the config says.
ENV PATH=/opt/syncer/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    SYNCER_CONFIG=/etc/syncer/config.toml \
    SYNCER_OPS__LISTEN=0.0.0.0:8402 \
    SYNCER_PASSTHROUGH__LISTEN=0.0.0.0:8400
EXPOSE 8400 8402
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s CMD ["python", "-ISc", \
  "import http.client, os; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['SYNCER_OPS__LISTEN'].rpartition(':')[2]), timeout=4); c.request('GET', '/healthz'); raise SystemExit(c.getresponse().status != 200)"]
# It is process 1 and takes SIGTERM itself: it drains within 20 seconds, so give it 30.
STOPSIGNAL SIGTERM
ENTRYPOINT ["syncer"]
CMD ["daemon"]
