#!/usr/bin/env bash
# Normalizations of the discriminator on stacked digits, each arm at its best learning rate of ../stacked_digits-lr: one
# to two minutes for a cell on one CPU core, four for the paper's form of ConvNorm. An interrupted study continues where
# it stopped. All options are passed to python -m gan.compare.
set -euo pipefail
cd "$(dirname "$0")/../../.."

source docs/studies/arms.sh
baseline=none

at none discriminator.normalization=none 1e-2
at spectral discriminator.normalization=spectral 3e-2
at spectral_conv discriminator.normalization=spectral_conv 3e-2
at conv_norm,strided "discriminator.normalization=$strided" 1e-2
at oni discriminator.normalization=oni 1e-2
at batch discriminator.activation_norm=batch 1e-3
at layer discriminator.activation_norm=layer 1e-2
at weight discriminator.normalization=weight 3e-2
at bidirectional_spectral discriminator.normalization=bidirectional_spectral 3e-2
at stable_rank discriminator.normalization=stable_rank 1e-2
at aol discriminator.normalization=aol 3e-2
at gradient discriminator.normalization=gradient 3e-3
at ocnn "regularizers.ocnn={weight: 0.001}" 1e-2
at orthogonal "regularizers.orthogonal={weight: 0.0001}" 1e-2
at gp "regularizers.gradient_penalty={weight: 10}" 1e-2
at r1 "regularizers.r1={weight: 0.5, every: 4}" 1e-2
at conv_norm "discriminator.normalization=$paper" 1e-2
compare stacked_digits --seeds 0,1,2,3,4 "$@"

at none discriminator.normalization=none 1e-2
at spectral discriminator.normalization=spectral 3e-2
at conv_norm "discriminator.normalization=$paper" 1e-2
compare stacked_digits --seeds 5,6,7,8,9 "$@"

# ConvNorm as its authors use it: one seed so far
at conv_norm,batch "discriminator.normalization={name: conv_norm, batch_norm: true}" 3e-3
compare stacked_digits --seeds 0 "$@"
