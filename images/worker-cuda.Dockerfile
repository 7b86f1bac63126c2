# The worker for NVIDIA GPUs: with torch, and onnxruntime-gpu in place of onnxruntime. Build from the repository's root:
#   docker build -f images/worker-cuda.Dockerfile -t batchwright-worker-cuda:0.1.0 .
# CUDA and cuDNN are in it, as packages; the driver comes from the node, for CUDA 13: 580 or newer.
# Any base with Python >= 3.11, venv and CA certificates does (Debian bookworm with python3 and python3-venv, too).
ARG BASE=python:3.12-slim
FROM ${BASE}

COPY locks/build.txt locks/worker-cuda.txt /tmp/locks/
RUN python3 -m venv /opt/venv \
 && /opt/venv/bin/pip install -q --no-cache-dir --no-compile --require-hashes -r /tmp/locks/build.txt --target /opt/build \
 && /opt/venv/bin/pip install -q --no-cache-dir --compile --require-hashes -r /tmp/locks/worker-cuda.txt \
 && rm -rf /tmp/locks

# kopf and others ask for the name of the user; the variables serve pods that run as a user without an entry.
RUN echo 'batchwright:x:65532:65532:Batchwright:/tmp:/usr/sbin/nologin' >> /etc/passwd \
 && echo 'batchwright:x:65532:' >> /etc/group
ENV USER=batchwright LOGNAME=batchwright HOME=/tmp

# A change of the source starts here: the packages above stay as they are.
COPY pyproject.toml README.md LICENSE /tmp/source/
COPY operator /tmp/source/operator
COPY worker /tmp/source/worker
RUN cd /tmp/source \
 && PYTHONPATH=/opt/build /opt/venv/bin/python -m hatchling build -t wheel -d /tmp/wheel \
 && /opt/venv/bin/pip install -q --no-cache-dir --compile --no-deps --no-index /tmp/wheel/*.whl \
 && cd / && rm -rf /tmp/source /tmp/wheel

# Without these capabilities older NVIDIA runtimes bring NVML and no CUDA.
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONFAULTHANDLER=1
USER 65532:65532
WORKDIR /tmp
ENTRYPOINT ["batchwright-worker"]
