#!/usr/bin/env bash
# Normalizations of the discriminator on stacked digits, as in ../protocol.md: about five hours on one CPU core. An
# interrupted study continues where it stopped. All options are passed to python -m gan.compare.
set -euo pipefail
cd "$(dirname "$0")/../../.."

source docs/studies/arms.sh
baseline=none,lr=3e-3

# Rates are chosen with a seed that is not used afterwards
rates=(1e-3 3e-3 1e-2)
for name in none spectral weight oni stable_rank bidirectional_spectral aol spectral_conv gradient; do
    add $name $name "${rates[@]}"
done
add_with batch discriminator.activation_norm=batch "${rates[@]}"
add_with layer discriminator.activation_norm=layer "${rates[@]}"
add_with r1 "regularizers.r1={weight: 0.5, every: 4}" "${rates[@]}"
add_with gp "regularizers.gradient_penalty={weight: 10}" "${rates[@]}"
add_with ocnn "regularizers.ocnn={weight: 0.001}" "${rates[@]}"
add_with orthogonal "regularizers.orthogonal={weight: 0.0001}" "${rates[@]}"
add conv_norm,strided "$strided" "${rates[@]}"
add conv_norm "$paper" "${rates[@]}"
add_with conv_norm,batch "discriminator.normalization={name: conv_norm, batch_norm: true}" "${rates[@]}"
for name in soc orthogonal_conv cayley; do
    add $name $name "${rates[@]}"
done
compare stacked_digits --seeds 100 "$@"
