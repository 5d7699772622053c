#!/usr/bin/env bash
# Does bfloat16 reduce quality? An interrupted study continues where it stopped.
set -euo pipefail
cd "$(dirname "$0")/../../../.."

python -m gan.compare configs/stacked_digits/study_resnet.yaml --out docs/studies/digits/bf16 --baseline fp32 \
    --device cpu --jobs 2 --threads 1 --seeds 0,1,2 \
    --arm fp32:discriminator.normalization=spectral \
    --arm bf16:discriminator.normalization=spectral,train.amp=bf16
