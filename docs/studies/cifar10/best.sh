#!/usr/bin/env bash
# Draw plots/best.png from the runs of run.sh: each arm at its best learning rate.
set -euo pipefail
cd "$(dirname "$0")/../../.."
out=$(mktemp -d)
runs=()
for arm in none,lr=1e-2 spectral,lr=1e-2 gradient,lr=3e-4 oni,lr=3e-2 spectral_conv,lr=3e-4 conv_norm,strided,lr=1e-2 \
    conv_norm,lr=1e-2; do
    runs+=(docs/studies/cifar10/cells/"$arm"-seed?)
done
python -m gan.compare --runs "${runs[@]}" --baseline none,lr=1e-2 --out "$out/best"
cp "$out/best/plots/fd_classifier5k_test.png" docs/studies/cifar10/plots/best.png
rm -r "$out"
