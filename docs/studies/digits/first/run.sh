#!/usr/bin/env bash
# Normalizations of the discriminator on stacked digits. An interrupted study continues where it stopped.
set -euo pipefail
cd "$(dirname "$0")/../../../.."

arms=()
add() { # add an arm without R1 and an arm with R1
    arms+=(--arm "$1:$2" --arm "$1,r1:$2,regularizers.r1.weight=0.5")
}
for name in none spectral spectral_conv bidirectional_spectral stable_rank weight; do
    add "$name" "discriminator.normalization=$name"
done
strided="discriminator.normalization={name: conv_norm, stride: strided}"
add conv_norm "$strided"
for name in oni gradient; do
    add "$name" "discriminator.normalization=$name"
done
add conv_norm,paper "discriminator.normalization={name: conv_norm, stride: paper}"
add batch discriminator.activation_norm=batch
add ocnn regularizers.ocnn.weight=0.001

compare() {
    python -m gan.compare configs/stacked_digits/study.yaml --out docs/studies/digits/first --baseline none \
        --device cpu --jobs 2 --threads 1 "$@"
}
compare "${arms[@]}" --seeds 0,1,2
for seeds in 3 4; do
    compare --arm none:discriminator.normalization=none --arm spectral:discriminator.normalization=spectral \
        --arm "conv_norm:$strided" --seeds "$seeds"
done
