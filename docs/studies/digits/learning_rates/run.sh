#!/usr/bin/env bash
# Does normalization widen the range of usable learning rates? An interrupted study continues where it stopped.
set -euo pipefail
cd "$(dirname "$0")/../../../.."

python -m gan.compare configs/stacked_digits/study.yaml --out docs/studies/digits/learning_rates --baseline none,lr=1e-3 \
    --device cpu --jobs 2 --threads 1 \
    --vary 'discriminator.normalization=none,spectral,{name: conv_norm, stride: strided}' \
    --vary optimizer.generator.lr,optimizer.discriminator.lr=3e-4,1e-3,3e-3 --seeds 0,1,2
