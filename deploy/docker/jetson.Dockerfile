# The station on a Jetson Orin with JetPack 6, built on one: docker build --file deploy/docker/jetson.Dockerfile --tag inspectd:0.1.0-jetson .
# JetPack's TensorRT is in the image, for Python 3.10. Of JetPack 7 (Thor) see deploy/jetson/README.md.
FROM nvcr.io/nvidia/l4t-jetpack:r36.4.0 AS build
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
# CUDA of JetPack 6 is 12.6.
ARG PACKAGES="cuda-bindings>=12.6,<13"
# With the system's packages, of which TensorRT is one.
RUN python3 -m venv --system-site-packages /opt/inspectd \
    && echo "${PACKAGES}" | xargs /opt/inspectd/bin/pip install --no-cache-dir --disable-pip-version-check .

FROM nvcr.io/nvidia/l4t-jetpack:r36.4.0
# The genicam package is linked to Python's shared library.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libpython3.10 python3 \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 inspectd \
    && useradd --uid 10001 --gid 10001 --groups video --home-dir /var/lib/inspectd --no-create-home --shell /usr/sbin/nologin inspectd \
    && install --directory --owner=inspectd --group=inspectd /run/inspectd /var/lib/inspectd
COPY --from=build /opt/inspectd /opt/inspectd
ENV PATH=/opt/inspectd/bin:/usr/bin:/bin
USER 10001:10001
WORKDIR /var/lib/inspectd
VOLUME /var/lib/inspectd
# Needs [health] port = 9464 in the configuration; 0 while parts would be judged.
HEALTHCHECK --interval=30s --timeout=10s --start-period=1800s --retries=3 CMD ["inspectd", "status", "--port", "9464"]
ENTRYPOINT ["inspectd"]
CMD ["run", "--stay", "/etc/inspectd/line.toml"]
