"""Compare time and error of the metrics with pytorch-fid and torch-fidelity, in one process.

    python benchmarks/bench_metrics.py                       # all benchmarks, a few minutes on 2 cores
    python benchmarks/bench_metrics.py --only frechet --repeats 3

The contestants alternate within each repeat, so that a change of the machine's load affects all of them. Each ratio
compares times from the same repeat. Prints the median ratio and the interquartile range. Features, images, and the
weights of Inception are random; their values change neither the time nor the rounding errors.
"""

import argparse
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torchvision
from pytorch_fid.fid_score import calculate_frechet_distance
from timing import format_ratio, measure_seconds, ratios, set_up, take_turns
from torch import Tensor
from torch.utils.data import Dataset
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric
from torch_fidelity.utils import create_feature_extractor, get_featuresdict_from_dataset

from metrics.extractors.base import Features
from metrics.extractors.inception import InceptionExtractor, load_inception_weights
from metrics.frechet import FeatureStatistics, frechet_distance
from metrics.kid import kid
from metrics.manifold import MAX_NEIGHBORS, manifold_metrics, precision_recall
from metrics.neighbors import squared_neighbor_distances

DIMENSION = 2048  # of the last layer of Inception
BATCH_SIZE = 64  # torch-fidelity's default


def race(reference: Callable, contestants: dict[str, tuple[Callable, float | None]], repeats: int) -> dict[str, object]:
    """Time each contestant (function, target ratio) and the reference, print one line each, and return the results."""
    results: dict[str, object] = {}

    def measure(name: str, run: Callable) -> float:
        def run_and_store() -> None:
            results[name] = run()

        return measure_seconds(run_and_store, torch.device("cpu"))

    runs = {"reference": reference} | {name: run for name, (run, _) in contestants.items()}
    times = take_turns({name: partial(measure, name, run) for name, run in runs.items()}, repeats)
    median = torch.tensor(times["reference"]).median()
    for name, (_, target) in contestants.items():
        faster = ratios(times["reference"], times[name])[1]
        verdict = "" if target is None else f"  target {target}x: {'met' if faster >= target else 'MISSED'}"
        ratio = format_ratio(times["reference"], times[name])
        print(f"{name:46s} {ratio} faster, reference {median:.2f} s{verdict}", flush=True)
    return results


def random_features(count: int, seed: int, shift: float = 0.0) -> Tensor:
    """Return random features (count, 2048) like Inception's: positive, correlated, with a decaying spectrum."""
    mix = torch.randn(DIMENSION, DIMENSION, generator=torch.Generator().manual_seed(0))
    mix *= torch.logspace(0, -2, DIMENSION)[:, None]
    noise = torch.randn(count, DIMENSION, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.softplus(noise @ mix / 8 + shift)


def bench_frechet(options: argparse.Namespace) -> None:
    a, b = (FeatureStatistics.from_features(random_features(6000, seed, 0.1 * seed)) for seed in (1, 2))
    arrays = [x.numpy() for x in (a.mean, a.covariance, b.mean, b.covariance)]
    _ = a.factor

    def without_cache(statistics: FeatureStatistics) -> FeatureStatistics:
        return FeatureStatistics(statistics.mean, statistics.covariance, statistics.count)

    with warnings.catch_warnings(action="ignore"):  # scipy warns about `disp`
        results = race(
            lambda: calculate_frechet_distance(*arrays),
            {
                "Fréchet distance, factor of the reference cached": (
                    lambda: frechet_distance(a, without_cache(b)),
                    8.0,
                ),
                "Fréchet distance, nothing cached": (lambda: frechet_distance(without_cache(a), without_cache(b)), 4.0),
            },
            options.repeats,
        )
    theirs, *ours = results.values()
    exact = (
        (a.mean - b.mean).square().sum()
        + a.covariance.trace()
        + b.covariance.trace()
        - 2 * torch.linalg.svdvals(a.factor.T @ b.factor).sum()
    ).item()
    print(f"  d = {DIMENSION}, error relative to singular values: {max(abs(x / exact - 1) for x in ours):.1e} ours,")
    print(f"  {abs(theirs / exact - 1):.1e} pytorch-fid's")


class Images(Dataset):
    """Images in the form that torch-fidelity's loop expects."""

    def __init__(self, images: Tensor):
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


def write_weights(path: Path) -> None:
    """Write random weights in the published file format, scaled so that activations keep their variance."""
    state_dict = torchvision.models.inception_v3(num_classes=1008, aux_logits=False, init_weights=False).state_dict()
    for name, tensor in state_dict.items():
        if name.endswith("conv.weight"):
            tensor.normal_(std=(2 / tensor[0].numel()) ** 0.5)
    torch.save(state_dict, path)


def bench_extraction(options: argparse.Namespace) -> None:
    random = torch.Generator().manual_seed(0)
    images = torch.randint(256, (options.images, 3, 32, 32), generator=random, dtype=torch.uint8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pth"
        write_weights(path)
        extractor = InceptionExtractor(load_inception_weights(path)[0])
        reference = create_feature_extractor(
            "inception-v3-compat", ["2048"], cuda=False, feature_extractor_weights_path=str(path), verbose=False
        )
    results = race(
        lambda: get_featuresdict_from_dataset(Images(images), reference, BATCH_SIZE, False, False, False)["2048"],
        {
            "extraction from 32x32, layer 2048": (
                lambda: Features.concatenate([extractor(batch) for batch in images.split(BATCH_SIZE)]).features,
                1.3,
            )
        },
        options.repeats,
    )
    theirs, ours = results.values()
    error = (ours - theirs).abs().max() / theirs.abs().max()
    print(f"  {len(images)} images, largest error relative to the largest feature: {error:.1e}")


def bench_subsets_and_neighbors(options: argparse.Namespace) -> None:
    fake, real = random_features(options.features, 1, 0.1), random_features(options.features, 2)
    results = race(
        lambda: kid_features_to_metric(fake, real, kid_subsets=20, verbose=False)["kernel_inception_distance_mean"],
        {"KID, 20 subsets of 1000": (lambda: kid(fake, real, subsets=20), 1.0)},
        options.repeats,
    )
    theirs, ours = results.values()
    print(f"  {ours:.8f}, torch-fidelity {theirs:.8f}")
    distances = squared_neighbor_distances(real, MAX_NEIGHBORS)
    names = "precision", "recall", "density", "coverage"
    results = race(
        lambda: prc_features_to_metric(fake, real, verbose=False),
        {
            "precision, recall": (lambda: precision_recall(fake, real), 1.0),
            "precision, recall, real neighborhoods cached": (
                lambda: manifold_metrics(names[:2], fake, real, distances),
                1.0,
            ),
            "all four metrics, real neighborhoods cached": (
                lambda: manifold_metrics(names, fake, real, distances),
                1.0,
            ),
        },
        options.repeats,
    )
    theirs, ours = list(results.values())[:2]
    print(f"  {ours}, torch-fidelity {theirs['precision'], theirs['recall']}")


BENCHMARKS = {
    "frechet": bench_frechet,
    "extraction": bench_extraction,
    "subsets": bench_subsets_and_neighbors,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=BENCHMARKS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--features", type=int, default=4000, help="size of each set for KID, precision, and recall")
    options = parser.parse_args()
    torch.manual_seed(0)
    print(set_up("cpu", options.threads))
    for name, bench in BENCHMARKS.items():
        if options.only in (None, name):
            bench(options)


if __name__ == "__main__":
    main()
