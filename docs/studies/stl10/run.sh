#!/usr/bin/env bash
# Normalizations of the discriminator on STL-10 (13k labeled, 48x48): about three hours on one CPU core. An interrupted
# study continues where it stopped. All options, such as data.root=stl10-48.tar.xz, are passed to python -m gan.compare.
set -euo pipefail
cd "$(dirname "$0")/../../.."

arms=()
add() { # add an arm with a name, a normalization, and learning rates
    local rate
    for rate in "${@:3}"; do
        arms+=(--arm "$1,lr=$rate:discriminator.normalization=$2,optimizer.generator.lr=$rate,optimizer.discriminator.lr=$rate")
    done
}
compare() {
    python -m gan.compare configs/stl10/study.yaml --out docs/studies/stl10 --baseline none,lr=1e-2 \
        --device cpu --jobs 1 --threads 1 "${arms[@]}" "$@"
    arms=()
}
paper="{name: conv_norm, stride: paper}"
strided="{name: conv_norm, stride: strided}"

# Three rates of each arm: the best one of the study on CIFAR-10 and its neighbours
add none none 3e-3 1e-2 3e-2
add spectral spectral 3e-3 1e-2 3e-2
add oni oni 1e-2 3e-2 1e-1
add spectral_conv spectral_conv 1e-4 3e-4 1e-3
add gradient gradient 1e-4 3e-4 1e-3
add conv_norm,strided "$strided" 3e-3 1e-2 3e-2
add conv_norm "$paper" 3e-3 1e-2 3e-2
compare --seeds 0 "$@"
