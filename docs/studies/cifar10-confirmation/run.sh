#!/usr/bin/env bash
# Normalizations of the discriminator on CIFAR-10 (JPEG) with seeds that did not choose the learning rates of ../cifar10:
# two to ten minutes for a cell on one CPU core. An interrupted study continues where it stopped. All options, such as
# data.root=cifar10-jpeg.tar.xz, are passed to python -m gan.compare.
set -euo pipefail
cd "$(dirname "$0")/../../.."

source docs/studies/arms.sh
baseline=none

# Runs that take as long as that of none: 2,000 steps divided by the ratio of docs/outputs/bench_arms_cifar10.txt
at none discriminator.normalization=none 1e-2
at conv_norm,strided,800 "discriminator.normalization=$strided,train.steps=800" 1e-2
at conv_norm,473 "discriminator.normalization=$paper,train.steps=473" 1e-2
at oni,1408 discriminator.normalization=oni,train.steps=1408 3e-2
compare cifar10-confirmation --seeds 10,11,12,13,14 "$@"
