#!/usr/bin/env bash
# Normalizations of the discriminator on CIFAR-10 (JPEG) with wide networks, on a GPU. An interrupted
# study continues where it stopped. All options are passed to python -m gan.compare.
set -euo pipefail
cd "$(dirname "$0")/../../.."

source docs/studies/arms.sh
add none none 1e-3 3e-3
add spectral spectral 1e-3 3e-3
add conv_norm,strided "$strided" 1e-3
add conv_norm "$paper" 1e-3
python -m gan.compare configs/cifar10/study_gpu.yaml --out docs/studies/cifar10-gpu --baseline none,lr=1e-3 \
    --device cuda --jobs 4 --threads 2 --seeds 0 "${arms[@]}" "$@"
