#!/usr/bin/env bash
# Normalizations of a digits classifier: about half an hour on two cores. An interrupted study continues where it stopped.
# All options, such as --seeds 0, are passed to python -m gan.compare.
set -euo pipefail
cd "$(dirname "$0")/../../.."
out=${OUT:-docs/studies/digits-robustness}

arms=()
add() { # add an arm for each level of label noise and for each fraction of the data
    local changes=$2
    for noise in 0 0.2 0.4 0.6; do
        arms+=(--arm "$1,noise=$noise:$changes,labels.noise=$noise")
    done
    for fraction in 0.1 0.3; do
        arms+=(--arm "$1,data=$fraction:$changes,data.subset=$fraction")
    done
}
add none classifier.activation_norm=none
add batch classifier.activation_norm=batch
# With batch norm, as in the paper. The order of the arms is that of the tables.
add spectral classifier.normalization=spectral
add conv_norm "classifier.normalization={name: conv_norm, stride: strided}"
add oni classifier.normalization=oni
add conv_norm,paper "classifier.normalization={name: conv_norm, stride: paper}"
add ocnn regularizers.ocnn.weight=0.001

python -m gan.compare configs/classification/digits_study.yaml --out "$out" --baseline batch,noise=0 \
    --device cpu --jobs 2 --threads 1 "${arms[@]}" --seeds 0,1,2 "$@"
PYTHONPATH=. python docs/studies/digits-robustness/tables.py "$out" > "$out/tables.md"
