# mmplugins with CUDA ops: docker build -t mmplugins . && docker run --gpus all --rm mmplugins python -m mmplugins doctor
# A pair of Python and torch for which the maintainers of the forks publish mmcv with CUDA ops; if pip does not find that
# wheel, the toolkit of this image compiles it. The host needs driver 535 or newer
# on a card for data centers, 575 or newer on others.
FROM nvidia/cuda:12.9.1-devel-ubuntu24.04
RUN apt-get update && \
    apt-get install -y --no-install-recommends g++ libgl1 libglib2.0-0 python3-dev python3-venv && \
    rm -rf /var/lib/apt/lists/*
ENV PATH=/opt/venv/bin:$PATH
RUN python3 -m venv /opt/venv && \
    pip install --no-cache-dir torch==2.10.0 torchvision==0.25.0 --index-url https://download.pytorch.org/whl/cu129
COPY . /opt/mmplugins
# A100, RTX 30, RTX 40, H100: there is no GPU to ask while an image is built.
ARG TORCH_CUDA_ARCH_LIST="8.0;8.6;8.9;9.0"
ARG FORCE_CUDA=1
ARG PIP_FIND_LINKS=https://mmwheels.onedl.ai/simple/cu129-torch2.10.0/index.html
RUN bash /opt/mmplugins/tools/install.sh && rm -rf /root/.cache/pip
WORKDIR /work
