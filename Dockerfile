# CPU, or a GPU through the NVIDIA container toolkit:   docker build -t convnorm-gan .
# With an image that has PyTorch and CUDA:               docker build --build-arg BASE=pytorch/pytorch -t convnorm-gan .
# Train in the current folder:                          docker run --rm -u "$(id -u)" -e HOME=/work -v "$PWD:/work" convnorm-gan train
# On a GPU:                                             the same with --gpus all --ipc host
ARG BASE=python:3.12-slim
FROM ${BASE}
# Some images refuse to install packages outside of a virtual environment.
ENV PIP_BREAK_SYSTEM_PACKAGES=1 PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1 USER=user
COPY . /opt/convnorm-gan
RUN pip install '/opt/convnorm-gan[compare]'
WORKDIR /work
ENTRYPOINT ["convnorm-gan"]
CMD ["--help"]
