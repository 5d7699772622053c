#!/usr/bin/env bash
# Learning rates of the normalizations on CIFAR-10 (JPEG) in a small SNGAN-ResNet: three to ten minutes for a cell on one
# CPU core. An interrupted study continues where it stopped. All options are passed to python -m gan.compare.
set -euo pipefail
cd "$(dirname "$0")/../../../.."

source docs/studies/arms.sh
config=configs/cifar10/study_resnet.yaml
baseline=none,lr=3e-3

# Rates are chosen with a seed that is not used afterwards
for name in none oni conv_norm spectral_conv; do
    add $name $name 3e-4 1e-3 3e-3 1e-2
done
add spectral spectral 3e-4 1e-3 3e-3
add gradient gradient 3e-4 1e-3 3e-3
compare cifar10-resnet/learning_rates --seeds 100 "$@"
