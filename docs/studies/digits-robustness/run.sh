#!/usr/bin/env bash
# The study of normalizers of a classifier of digits, in half an hour on two cores; goes on where it stopped. More options
# go to the comparison, such as --seeds 0.
set -euo pipefail
cd "$(dirname "$0")/../../.."
out=${OUT:-docs/studies/digits-robustness}

arms=()
add() { # an arm of that name at each noise of the labels, and at each share of the data
    local changes=$2
    for noise in 0 0.2 0.4 0.6; do
        arms+=(--arm "$1,noise=$noise:$changes,labels.noise=$noise")
    done
    for share in 0.1 0.3; do
        arms+=(--arm "$1,data=$share:$changes,data.subset=$share")
    done
}
add none classifier.activation_norm=none
add batch classifier.activation_norm=batch
for name in spectral conv_norm oni; do # all with batch norm, as in the paper
    add "$name" "classifier.normalization=$name"
done
add conv_norm,paper "classifier.normalization={name: conv_norm, stride: paper}"
add ocnn regularizers.ocnn.weight=0.001

python -m gan.compare configs/classification/digits_study.yaml --out "$out" --baseline batch,noise=0 \
    --device cpu --jobs 2 --threads 1 "${arms[@]}" --seeds 0,1,2 "$@"
PYTHONPATH=. python docs/studies/digits-robustness/tables.py "$out" > "$out/tables.md"
