# A server with its ranks in one image, for CPUs or for NVIDIA GPUs:
#
#   docker build --target cpu  -t vinf:cpu  --build-arg PIP_EXTRA_INDEX_URL=<PyTorch's index of CPU builds> .
#   docker build --target cuda -t vinf:cuda .
#   docker run -p 127.0.0.1:50051:50051 -v vinf-data:/data vinf:cpu
#   docker run -p 127.0.0.1:50051:50051 -v vinf-data:/data --gpus all --shm-size 1g vinf:cuda
#
# Arguments of a build:
#   DEBIAN               the image that all stages start from
#   PIP_EXTRA_INDEX_URL  where pip looks besides its index. The target cpu takes torch's CPU build from there; without
#                        one it takes what the index has, which on x86-64 is the CUDA build: it works, and is several
#                        gigabytes larger
#   REVISION             the commit, for the label
# An index that needs a password goes into a secret instead, which no layer keeps: --secret id=pip.conf,src=pip.conf
#
# docs/deployment.md has the rest: compose, volumes, health, GPUs, upgrades.

ARG DEBIAN=debian:bookworm-slim

# What every image has. Debian's Python is the one the tests run with, and gets Debian's security fixes.
# tini is PID 1: when a rank's parent is killed, somebody must reap the rank. Part of the image and not left to
# `docker run --init`, because Kubernetes and others know no such option.
# hadolint ignore=DL3008 # Debian keeps only the newest version of a package: a pinned one could not be installed later
FROM ${DEBIAN} AS base
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 vinf \
    && install --directory --owner vinf --group vinf /data

# pip stays here: the environment is made without one, and is all that leaves these stages.
FROM base AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_PYTHON=/opt/vinf/bin/python \
    TORCH=/opt/vinf/lib/python3.11/site-packages/torch
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-pip \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv --without-pip /opt/vinf
WORKDIR /src

# The libraries change less often than the source: what they are installed from is a few lists, and as long as these
# stay the same, so do the layers below, whatever else pyproject.toml says.
FROM build AS requirements
COPY constraints.txt pyproject.toml ./
COPY scripts/requirements.py scripts/
RUN python3 scripts/requirements.py server client fp8 > requirements.txt \
    && grep '^torch==' constraints.txt > torch.txt \
    && sed 's/$/+cpu/' torch.txt > torch-cpu.txt

# torch brings headers, some builds of it tests, too: up to 150 MB that nothing here looks at.
FROM build AS libraries-cpu
COPY --from=requirements /src/*.txt ./
ARG PIP_EXTRA_INDEX_URL
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    pip install --constraint constraints.txt --requirement torch-cpu.txt \
    || { echo "no CPU build of torch there, see PIP_EXTRA_INDEX_URL: taking what there is" \
        && pip install --constraint constraints.txt --requirement torch.txt; }
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    pip install --constraint constraints.txt --requirement requirements.txt \
    && rm -rf "${TORCH}/test" "${TORCH}/include"

FROM build AS libraries-cuda
COPY --from=requirements /src/*.txt ./
ARG PIP_EXTRA_INDEX_URL
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    pip install --constraint constraints.txt --requirement torch.txt \
    && /opt/vinf/bin/python -c "import sys, torch; sys.exit(torch.version.cuda is None and 'this torch has no CUDA')"
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    pip install --constraint constraints.txt --requirement requirements.txt \
    && rm -rf "${TORCH}/test" "${TORCH}/include"

# The package alone, laid out as it will lie in the image: a change of the source changes one small layer.
FROM build AS package
COPY . .
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    PIP_CONSTRAINT=constraints.txt pip install --no-deps --root /package .

FROM base AS runtime
# Frames, checkpoints and logs go to /data/vinf, whatever arguments the command is given.
ENV PATH=/opt/vinf/bin:$PATH PYTHONUNBUFFERED=1 XDG_STATE_HOME=/data
USER 10001:10001
WORKDIR /home/vinf
VOLUME /data
EXPOSE 50051 9464
# Lets the running video end, or saves a checkpoint, within --grace (30 s): docker stop --time 40.
STOPSIGNAL SIGTERM
# Ready to make videos, not only alive. It finds the server as every client does: $VINF_SERVER, $VINF_TLS_CA, ...
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s --retries=3 \
    CMD ["sh", "-c", "vinf health || exit 1"]
ENTRYPOINT ["tini", "-s", "--", "vinf"]
# Inside a container every address is opened on purpose; what is published is not encrypted, so keep it off public networks.
CMD ["serve", "--listen", "0.0.0.0:50051", "--insecure", "--metrics", "0.0.0.0:9464"]
ARG REVISION
LABEL org.opencontainers.image.title="vinf" \
    org.opencontainers.image.description="Long video from a diffusion model, generated by a group of GPUs working as one" \
    org.opencontainers.image.version="0.1.0" \
    org.opencontainers.image.revision="${REVISION}" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.base.name="debian:bookworm-slim"

FROM runtime AS cuda
COPY --from=libraries-cuda /opt/vinf /opt/vinf
COPY --from=package /package /
# The driver and nvidia-smi come from the host, by NVIDIA's container runtime.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

# The last one is what a build without --target makes.
FROM runtime AS cpu
COPY --from=libraries-cpu /opt/vinf /opt/vinf
COPY --from=package /package /
