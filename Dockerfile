# The scorer as an image: exactly what requirements.lock names, and no compiler, test or lint tool.
# docs/operations.md says what of it was tried and how.

FROM python:3.11-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
# first and alone, so that a change of ours does not fetch everything again; every file is held against its hash
COPY requirements.lock ./
RUN pip wheel --require-hashes --no-deps --wheel-dir /wheels --requirement requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY features ./features
COPY models ./models
COPY stream ./stream
# from those files alone; what only the tests need stays behind
RUN pip wheel --no-index --find-links /wheels --no-deps --wheel-dir /ours . \
    && python -m venv /opt/fraudstream \
    && /opt/fraudstream/bin/pip install --no-index --find-links /wheels /ours/*.whl

FROM python:3.11-slim-bookworm
RUN groupadd --system --gid 10001 fraudstream \
    && useradd --system --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin fraudstream \
    && mkdir /var/lib/fraudstream \
    && chown fraudstream:fraudstream /var/lib/fraudstream
COPY --from=build /opt/fraudstream /opt/fraudstream
ENV PATH=/opt/fraudstream/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    NUMBA_CACHE_DIR=/var/lib/fraudstream/numba \
    FRAUDSTREAM_HOME=/var/lib/fraudstream \
    FRAUDSTREAM_HEALTH_HOST=0.0.0.0 \
    FRAUDSTREAM_HEALTH_PORT=9108 \
    FRAUDSTREAM_LOG_FORMAT=json
# rows, models and compiled kernels; all else may be read-only
VOLUME /var/lib/fraudstream
EXPOSE 9108
USER 10001:10001
WORKDIR /var/lib/fraudstream
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9108/healthz', timeout=4)"]
ENTRYPOINT ["fraudstream"]
CMD ["worker"]
