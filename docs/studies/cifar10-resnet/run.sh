#!/usr/bin/env bash
# Normalizations of the discriminator on CIFAR-10 (JPEG) in a small SNGAN-ResNet: five to twenty minutes for a cell on one
# CPU core. An interrupted study continues where it stopped. All options are passed to python -m gan.compare.
set -euo pipefail
cd "$(dirname "$0")/../../.."

source docs/studies/arms.sh
config=configs/cifar10/study_resnet.yaml
baseline=none,lr=1e-3

# Rates are chosen with a seed that is not used afterwards
for name in none spectral oni conv_norm; do
    add $name $name 3e-4 1e-3 3e-3
done
add spectral_conv spectral_conv 3e-4
add gradient gradient 3e-4
compare cifar10-resnet --seeds 100 "$@"
