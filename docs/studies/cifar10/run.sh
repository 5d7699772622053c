#!/usr/bin/env bash
# Normalizations of the discriminator on CIFAR-10 (JPEG): about six hours on one CPU core. An interrupted study
# continues where it stopped. All options, such as data.root=cifar10-jpeg.tar.xz, are passed to python -m gan.compare.
set -euo pipefail
cd "$(dirname "$0")/../../.."

source docs/studies/arms.sh

# Three rates, then further ones until the best rate of each arm is neither the largest nor the smallest
add none none 3e-4 1e-3 3e-3 1e-2 3e-2
add spectral spectral 3e-4 1e-3 3e-3 1e-2 3e-2
add gradient gradient 1e-4 3e-4 1e-3 3e-3
add oni oni 3e-4 1e-3 3e-3 1e-2 3e-2 1e-1
add spectral_conv spectral_conv 1e-4 3e-4 1e-3 3e-3
add conv_norm,strided "$strided" 3e-4 1e-3 3e-3 1e-2 3e-2
add conv_norm "$paper" 3e-4 1e-3 3e-3 1e-2 3e-2
compare cifar10 --seeds 0 "$@"

# The best rate of each arm with more seeds
for seed in 1 2 3 4; do
    add none none 1e-2
    add spectral spectral 1e-2
    if ((seed < 3)); then add gradient gradient 3e-4; fi
    add oni oni 3e-2
    add spectral_conv spectral_conv 3e-4
    add conv_norm,strided "$strided" 1e-2
    add conv_norm "$paper" 1e-2
    compare cifar10 --seeds "$seed" "$@"
done
