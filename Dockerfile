# A server with its ranks in one image. Run it with --init: PID 1 must reap ranks whose parent was killed.
#
#   docker build -t vinf .
#   docker run --init -p 50051:50051 -p 9464:9464 -v vinf-data:/data vinf
#
#
# On GPUs add --gpus all --shm-size 1g and say how many ranks: ... vinf serve --ranks 4 --listen 0.0.0.0:50051 ...
# torch comes in the build that the package index offers for its pinned version. For a CPU build from another index:
# docker build --build-arg PIP_EXTRA_INDEX_URL=...

FROM python:3.12-slim-bookworm AS build
ARG PIP_EXTRA_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/vinf
ENV PATH=/opt/vinf/bin:$PATH
WORKDIR /src
# The libraries change less often than the source: a layer of their own.
COPY constraints.txt ./
RUN pip install "$(grep '^torch==' constraints.txt)"
COPY . .
RUN pip install -c constraints.txt '.[server,client]'

FROM python:3.12-slim-bookworm
RUN useradd --create-home --uid 10001 vinf \
    && install -d -o 10001 -g 10001 /data
COPY --from=build /opt/vinf /opt/vinf
ENV PATH=/opt/vinf/bin:$PATH PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /home/vinf
VOLUME /data
EXPOSE 50051 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import json, subprocess, sys; sys.exit(not json.loads(subprocess.check_output(['vinf', 'info', '--json']))['ready'])"]
ENTRYPOINT ["vinf"]
# Inside a container the port is published on purpose; it is not encrypted, so keep it off public networks.
CMD ["serve", "--ranks", "1", "--listen", "0.0.0.0:50051", "--insecure", "--metrics", "0.0.0.0:9464", "--data-dir", "/data"]
