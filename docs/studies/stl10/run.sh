#!/usr/bin/env bash
# Normalizations of the discriminator on STL-10 (13k labeled, 48x48): about four hours on one CPU core. An interrupted
# study continues where it stopped. All options, such as data.root=stl10-48.tar.xz, are passed to python -m gan.compare.
set -euo pipefail
cd "$(dirname "$0")/../../.."

source docs/studies/arms.sh

# The best rate of the study on CIFAR-10 and its neighbors, and then further ones, until the best rate of each arm is
# neither the largest nor the smallest
add none none 3e-3 1e-2 3e-2
add spectral spectral 1e-4 3e-4 1e-3 3e-3 1e-2 3e-2 1e-1
add oni oni 1e-3 3e-3 1e-2 3e-2 1e-1
add spectral_conv spectral_conv 1e-4 3e-4 1e-3
add gradient gradient 1e-4 3e-4 1e-3
add conv_norm,strided "$strided" 1e-3 3e-3 1e-2 3e-2
add conv_norm "$paper" 3e-3 1e-2 3e-2 1e-1
compare stl10 --seeds 0 "$@"

# The best rate of each arm with more seeds
for seed in 1 2 3 4; do
    add none none 1e-2
    add spectral spectral 3e-4
    add spectral_conv spectral_conv 3e-4
    add conv_norm "$paper" 3e-2
    if ((seed < 3)); then
        add oni oni 3e-3
        add gradient gradient 3e-4
        add conv_norm,strided "$strided" 3e-3
    fi
    compare stl10 --seeds "$seed" "$@"
done

# A second seed at the rate at which ONI was nearly as good with the first
add oni oni 1e-2
compare stl10 --seeds 1 "$@"
