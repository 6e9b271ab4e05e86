# For CPUs:         docker build -t rsssl .
# For NVIDIA GPUs:  docker build --build-arg TORCH=cu128 -t rsssl:cuda .     (the host needs the NVIDIA Container Toolkit)
#
#   docker run --rm -v "$PWD:/data" -v rsssl-store:/store rsssl dataset=folder dataset.root=my_tiles ts=5
#   docker run --rm --gpus all --ipc=host -v "$PWD:/data" -v rsssl-store:/store rsssl:cuda dataset=folder dataset.root=my_tiles ts=5
FROM python:3.12-slim

# A C++ compiler is for compile=default alone, which torch builds kernels with.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++=4:* \
    && rm -rf /var/lib/apt/lists/*

# uv knows where torch's wheels for each kind of machine are: cpu, cu128, rocm6.4, ...
ARG TORCH=cpu
WORKDIR /opt/rsssl
COPY setup.cfg pyproject.toml README.md LICENSE ./
COPY conf conf
COPY rsssl rsssl
RUN pip install --no-cache-dir "uv==0.*" \
    && uv pip install --system --no-cache --torch-backend="${TORCH}" ".[gdal,sweep,export]" \
    && rm -rf build

# Anybody may run it: docker run --user "$(id -u):$(id -g)" writes files that are yours.
ENV RSSSL_STORE=/store NUMBA_CACHE_DIR=/tmp/numba MPLCONFIGDIR=/tmp/matplotlib HOME=/tmp
RUN mkdir -m 1777 /store /data
VOLUME /store
WORKDIR /data
USER 1000
ENTRYPOINT ["rsssl-run"]
CMD ["--help"]
