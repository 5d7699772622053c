#!/usr/bin/env bash
# Normalizations of the discriminator on stacked digits at several learning rates, the first step of ../protocol.md. An
# interrupted study continues where it stopped. All options are passed to python -m gan.compare.
set -euo pipefail
cd "$(dirname "$0")/../../.."

source docs/studies/arms.sh
batch=discriminator.activation_norm=batch
layer=discriminator.activation_norm=layer
r1="regularizers.r1={weight: 0.5, every: 4}"
gp="regularizers.gradient_penalty={weight: 10}"
ocnn="regularizers.ocnn={weight: 0.001}"
orthogonal="regularizers.orthogonal={weight: 0.0001}"

# Rates are chosen with a seed that is not used afterwards: three rates
rates=(1e-3 3e-3 1e-2)
for name in none spectral weight oni stable_rank bidirectional_spectral aol spectral_conv gradient; do
    add $name $name "${rates[@]}"
done
add_with batch "$batch" "${rates[@]}"
add_with layer "$layer" "${rates[@]}"
add_with r1 "$r1" "${rates[@]}"
add_with gp "$gp" "${rates[@]}"
add_with ocnn "$ocnn" "${rates[@]}"
add_with orthogonal "$orthogonal" "${rates[@]}"
add conv_norm,strided "$strided" "${rates[@]}"
compare stacked_digits-lr --seeds 100 "$@"

# Then further ones, until the best rate of each arm is neither the largest nor the smallest
for name in none spectral weight oni stable_rank bidirectional_spectral aol spectral_conv; do
    add $name $name 3e-2
done
add_with batch "$batch" 3e-4
add_with layer "$layer" 3e-2
add_with r1 "$r1" 3e-2
add_with gp "$gp" 3e-2
add_with ocnn "$ocnn" 3e-2
add_with orthogonal "$orthogonal" 3e-2
add conv_norm,strided "$strided" 3e-2
for name in spectral weight bidirectional_spectral aol spectral_conv; do
    add $name $name 1e-1
done
compare stacked_digits-lr --seeds 100 "$@"

# The same for the arms whose steps take longest
add conv_norm "$paper" "${rates[@]}" 3e-2
add_with conv_norm,batch "discriminator.normalization={name: conv_norm, batch_norm: true}" "${rates[@]}"
compare stacked_digits-lr --seeds 100 "$@"
