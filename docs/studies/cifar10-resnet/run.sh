#!/usr/bin/env bash
# Normalizations of the discriminator on CIFAR-10 (JPEG) in a small SNGAN-ResNet, each arm at its best rate of
# learning_rates: three to ten minutes for a cell on one CPU core. An interrupted study continues where it stopped. All
# options are passed to python -m gan.compare.
set -euo pipefail
cd "$(dirname "$0")/../../.."

source docs/studies/arms.sh
config=configs/cifar10/study_resnet.yaml
baseline=none,lr=3e-3

add none none 3e-3
add spectral spectral 1e-3
add spectral_conv spectral_conv 3e-3
add oni oni 3e-3
add gradient gradient 1e-3
add conv_norm conv_norm 3e-3
compare cifar10-resnet --seeds 0,1,2 "$@"

add none none 3e-3
add spectral spectral 1e-3
add spectral_conv spectral_conv 3e-3
add conv_norm conv_norm 3e-3
compare cifar10-resnet --seeds 3 "$@"
