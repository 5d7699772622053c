# Functions of the run.sh of studies that compare normalizations of the discriminator at several learning rates.

paper="{name: conv_norm, stride: paper}"
strided="{name: conv_norm, stride: strided}"
baseline=none,lr=1e-2
config= # of `compare`; empty: study.yaml of the data set
arms=()
add_with() { # add an arm with a name, overrides, and learning rates
    local rate
    for rate in "${@:3}"; do
        arms+=(--arm "$1,lr=$rate:$2,optimizer.generator.lr=$rate,optimizer.discriminator.lr=$rate")
    done
}
add() { # add an arm with a name, a normalization, and learning rates
    add_with "$1" "discriminator.normalization=$2" "${@:3}"
}
at() { # add an arm with a name, overrides, and a learning rate that its name does not show
    arms+=(--arm "$1:$2,optimizer.generator.lr=$3,optimizer.discriminator.lr=$3")
}
compare() { # train the arms that have been added; the first argument is the folder, named by its data set
    python -m gan.compare "${config:-configs/${1%%-*}/study.yaml}" --out "docs/studies/$1" --baseline "$baseline" \
        --device cpu --jobs 1 --threads 1 "${arms[@]}" "${@:2}"
    arms=()
}
