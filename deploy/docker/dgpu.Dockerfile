# The station on an NVIDIA GPU of its own (x86-64): docker build --file deploy/docker/dgpu.Dockerfile --tag inspectd:0.1.0-dgpu .
# The driver's libraries come from the host, by NVIDIA's container toolkit; all else that TensorRT needs is in its wheels, so
# that no image of CUDA is needed. An engine is built where it runs: `export-trt --from-onnx`, or `rebuild = true`.
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
# CUDA 12: cuda-bindings and TensorRT have to be of one major version, and the driver not older than it (525).
ARG PACKAGES="tensorrt-cu12>=10.3,<11 cuda-bindings>=12.6,<13"
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
ENV PATH=/opt/inspectd/bin:/usr/bin:/bin \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
WORKDIR /var/lib/inspectd
VOLUME /var/lib/inspectd
# Needs [health] port = 9464 in the configuration; 0 while parts would be judged.
HEALTHCHECK --interval=30s --timeout=10s --start-period=900s --retries=3 CMD ["inspectd", "status", "--port", "9464"]
ENTRYPOINT ["inspectd"]
CMD ["run", "--stay", "/etc/inspectd/line.toml"]
