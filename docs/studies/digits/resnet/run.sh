#!/usr/bin/env bash
# Normalizations of a small SNGAN-ResNet discriminator. An interrupted study continues where it stopped.
set -euo pipefail
cd "$(dirname "$0")/../../../.."

python -m gan.compare configs/stacked_digits/study_resnet.yaml --out docs/studies/digits/resnet --baseline none \
    --device cpu --jobs 2 --threads 1 --seeds 0,1,2 \
    --arm none:discriminator.normalization=none --arm spectral:discriminator.normalization=spectral \
    --arm spectral_conv:discriminator.normalization=spectral_conv \
    --arm "conv_norm:discriminator.normalization={name: conv_norm, stride: strided}" \
    --arm "conv_norm,paper:discriminator.normalization={name: conv_norm, stride: paper}"
