# The station on a processor. From the checkout: docker build --file deploy/docker/cpu.Dockerfile --tag inspectd:0.1.0-cpu .
FROM debian:12.11-slim AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates gcc libc6-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY setup.py pyproject.toml README.md LICENSE ./
COPY inspectd inspectd
COPY training training
COPY export export
COPY runtime runtime
COPY calibration calibration
# More than the base install: --build-arg PACKAGES='openvino>=2024.4 cryptography>=41'
ARG PACKAGES=""
RUN python3 -m venv /opt/inspectd \
    && echo "${PACKAGES}" | xargs /opt/inspectd/bin/pip install --no-cache-dir --disable-pip-version-check .

FROM debian:12.11-slim
# The genicam package is linked to Python's shared library.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libpython3.11 python3 \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 inspectd \
    && useradd --uid 10001 --gid 10001 --home-dir /var/lib/inspectd --no-create-home --shell /usr/sbin/nologin inspectd \
    && install --directory --owner=inspectd --group=inspectd /run/inspectd /var/lib/inspectd
COPY --from=build /opt/inspectd /opt/inspectd
ENV PATH=/opt/inspectd/bin:/usr/bin:/bin
USER 10001:10001
WORKDIR /var/lib/inspectd
VOLUME /var/lib/inspectd
# Needs [health] port = 9464 in the configuration; 0 while parts would be judged.
HEALTHCHECK --interval=30s --timeout=10s --start-period=120s --retries=3 CMD ["inspectd", "status", "--port", "9464"]
ENTRYPOINT ["inspectd"]
CMD ["run", "--stay", "/etc/inspectd/line.toml"]
