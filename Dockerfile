# CPU, or a GPU through the NVIDIA container toolkit:   docker build -t convnorm-gan .
# With an image that has PyTorch and CUDA:               docker build --build-arg BASE=pytorch/pytorch -t convnorm-gan .
# Train in the current folder:                          docker run --rm -v "$PWD:/work" convnorm-gan train
# On a GPU:                                             docker run --rm --gpus all --ipc host -v "$PWD:/work" convnorm-gan train
ARG BASE=python:3.12-slim
FROM ${BASE}
# The Python of some images belongs to their package manager, which matters to a machine, but not to an image.
ENV PIP_BREAK_SYSTEM_PACKAGES=1 PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1
COPY . /opt/convnorm-gan
RUN pip install '/opt/convnorm-gan[compare]'
WORKDIR /work
ENTRYPOINT ["convnorm-gan"]
CMD ["--help"]
