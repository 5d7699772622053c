#!/usr/bin/env bash
# Does bfloat16 reduce quality in layers that use Winograd's algorithm? An interrupted study continues where it stopped.
set -euo pipefail
cd "$(dirname "$0")/../../../.."

python -m gan.compare configs/stacked_digits/study_resnet.yaml --out docs/studies/digits/bf16_wide --baseline fp32 \
    --device cpu --jobs 2 --threads 1 --seeds 0,1,2,3,4,5,6,7,8,9 generator.width=128 train.steps=300 eval.every=150 \
    lipschitz.audit_every=150 checkpoint.every=150 \
    --arm fp32:discriminator.normalization=spectral \
    --arm bf16:discriminator.normalization=spectral,train.amp=bf16
