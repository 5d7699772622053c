"""Evaluate a generator, or compare two folders of images: python -m gan.evaluate RUN | --images A B."""

import argparse
import dataclasses
import json
import statistics
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gan import __version__
from gan.config import Config
from gan.evaluation.evaluator import Evaluator
from gan.evaluation.folder_metrics import FolderOptions, compare_folders, save_statistics
from gan.evaluation.image_folders import Decoding
from gan.evaluation.stand_ins import find_missing_weights
from gan.options.loader import dump_config, load_config
from gan.run.evaluations import CLASSIFIER, RESULTS, STD, Evaluations
from gan.run.start import check_writable
from gan.run.summary import format_table
from gan.runtime.cache import hash_values
from gan.runtime.command import Parser, exit_code, split_overrides, whole_number
from gan.runtime.device import select_device
from gan.runtime.distributed import broadcast_object, process_group, rank
from gan.runtime.errors import UserError
from gan.runtime.files import check_regular, write_json
from gan.runtime.paths import expand_path
from gan.runtime.provenance import versions
from gan.runtime.text import printable
from gan.training.build import build_experiment
from gan.training.experiment import Experiment
from gan.training.generator_file import check_data, is_generator_file, load_generator
from gan.training.inputs import Inputs
from gan.training.restore import load_run_config, replace_metrics, restore_experiment
from metrics.estimate import Estimate, format_estimate
from metrics.protocols import describe_metric, parse_protocol, parse_protocols
from models.calls import call_network

CLASSIFIER_SPACE = "classifier"
MAX_SIDE = 4096  # pixels
MAX_SEEDS = 1000
VALUES = "version 1"
"""Of the values of metrics: change it when they change within a version of the package"""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code: 0, or 2 after a user error."""
    return exit_code(lambda: run(parse(argv)), distributed=True)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the options, with the `config` that they change. Raises UserError if they are invalid."""
    parser = Parser(
        prog="python -m gan.evaluate",
        description="Evaluate the generator of a run, or compare a folder of generated images with real images.",
    )
    parser.add_argument("run", nargs="*", metavar="RUN [key=value ...]", help="run folder or .safetensors file")
    parser.add_argument("--images", nargs="+", metavar="DIR", help="folders or archives of generated and real images")
    parser.add_argument("--metrics", nargs="+", help="default: eval.metrics of the run, or fid for folders")
    parser.add_argument("--num-samples", type=whole_number, help="number of generated images, for all metrics")
    parser.add_argument("--seeds", type=whole_number, help="number of sets of latents to evaluate (default: 1)")
    parser.add_argument("--checkpoint", choices=("newest", "best"), help="(default: newest)")
    parser.add_argument("--save-statistics", type=Path, metavar="FILE.npz", help="write FID statistics of --images DIR")
    parser.add_argument("--out", type=Path, help=f"JSON file to write (default: {RESULTS} in a run folder)")
    parser.add_argument("--json", action="store_true", help="print the metrics as one JSON object, and nothing else")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(default: auto)")
    parser.add_argument("--resize", type=whole_number, metavar="N", help="crop images to squares, resized to N x N")
    parser.add_argument("--skip-corrupt", action="store_true", help="leave out images that cannot be read")
    options = parser.parse_intermixed_args(argv)
    words, options.overrides = split_overrides(options.run)
    runs = [expand_path(word, "RUN") for word in words]
    for name in ("images", "metrics"):  # each takes all words that follow it
        if getattr(options, name) is not None:
            words, overrides = split_overrides(getattr(options, name))
            setattr(options, name, words)
            options.overrides += overrides
    if len(runs) + (options.images is not None) != 1:
        parser.error("give either one run folder or --images DIR_A DIR_B")
    options.run = runs[0] if runs else None
    if options.images is not None:
        options.images = [expand_path(word, "--images") for word in options.images]
    elif options.resize is not None or options.skip_corrupt or options.save_statistics:
        parser.error("--resize, --skip-corrupt and --save-statistics are options of --images")
    if options.images is not None:
        of_scores = ("metrics", "out", "json") if options.save_statistics else ()
        for name in ("num_samples", "seeds", "checkpoint", *of_scores):
            if getattr(options, name):
                other = "--save-statistics" if name in of_scores else "--images"
                parser.error(f"--{name.replace('_', '-')} cannot be combined with {other}; remove it")
        parser.require_suffix("--save-statistics", options.save_statistics, ".npz")
    elif options.checkpoint is not None and is_generator_file(runs[0]):
        parser.error("--checkpoint is an option for run folders")
    options.seeds = 1 if options.seeds is None else options.seeds
    options.checkpoint = options.checkpoint or "newest"
    if options.resize is not None and not 1 <= options.resize <= MAX_SIDE:
        parser.error(f"--resize {options.resize}: must be from 1 to {MAX_SIDE}")
    if not 1 <= options.seeds <= MAX_SEEDS:
        parser.error(f"--seeds {options.seeds}: must be from 1 to {MAX_SEEDS}")
    if options.images is not None and len(options.images) != (1 if options.save_statistics else 2):
        parser.error("--images needs two folders, DIR_A DIR_B, or one folder with --save-statistics FILE.npz")
    if options.run is not None:
        options.config = load_run_config(options.run, options.overrides)
    else:
        options.config = load_config(FolderOptions, None, options.overrides)
    return options


def run(options: argparse.Namespace) -> None:
    """Compute the metrics, print them and write the JSON file."""
    device = select_device(options.device)
    with process_group(device):
        if options.save_statistics is not None:
            save_folder_statistics(options, device)
            return
        # With --json, everything but the result is for the terminal.
        with redirect_stdout(sys.stderr) if options.json and rank() == 0 else nullcontext():
            results = (evaluate_folders if options.run is None else evaluate_run)(options, device)
        if options.json:
            print(json.dumps(results, ensure_ascii=False))


def save_folder_statistics(options: argparse.Namespace, device: torch.device) -> None:
    """Save the statistics of a folder of images."""
    path = options.save_statistics
    _check_target(path, "--save-statistics")
    if path.exists():
        raise UserError(f"--save-statistics {path} already exists; choose another name")
    decoding = _get_decoding(options)
    _print_skipped(save_statistics(options.images[0], path, decoding, options.config.metrics, device))


def evaluate_folders(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Compare two folders of images, and return the metrics with what they depend on."""
    if options.out is not None:
        _check_target(options.out, "--out")
    fake, real = options.images
    decoding, networks = _get_decoding(options), options.config.metrics
    scores, skipped, classifier = compare_folders(
        fake, real, options.metrics or ["fid"], decoding, networks, device, _print_in_words
    )
    _print_skipped(skipped)
    results = {"images": [str(fake), str(real)], "decoding": str(decoding), "skipped": skipped}
    results |= {} if classifier is None else {CLASSIFIER: classifier}
    spreads = _get_spreads(scores)
    results |= {"metrics": scores, **({STD: spreads} if spreads else {})}
    if options.out is not None and rank() == 0:
        write_json(options.out, results)
    return results


def _get_decoding(options: argparse.Namespace) -> Decoding:
    """Return how images are read, and print it if they are changed."""
    decoding = Decoding(resize=options.resize, skip_corrupt=options.skip_corrupt)
    if decoding.resize is not None:
        print(f"images are compared as {decoding}")
    return decoding


def _check_target(path: Path, option: str) -> None:
    """Raise UserError if a file cannot be written, before the hours in which its content is computed."""
    check_writable(path.parent, option)
    check_regular(path)


def evaluate_run(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Evaluate a checkpoint with one or more sets of latents. Print and save the metrics of each of them at once.

    Returns them as in the file: the values of each metric by seed.
    """
    config: Config = options.config
    try:
        protocols = parse_protocols(options.metrics or config.eval.metrics)
        if options.num_samples is not None:
            protocols = parse_protocols([str(protocol.with_count(options.num_samples)) for protocol in protocols])
    except ValueError as error:
        raise UserError(f"--metrics: {error}") from None
    if not protocols:
        raise UserError("the run has no metrics; choose some with --metrics")

    path = options.out or (None if is_generator_file(options.run) else options.run / RESULTS)
    needs_classifier = any(protocol.features == CLASSIFIER_SPACE for protocol in protocols)
    classifier = config.metrics.classifier if needs_classifier else None
    results = Evaluations(path, classifier) if path is not None and rank() == 0 else None
    names = select_available(list(dict.fromkeys(map(str, protocols))), config)
    experiment, G, trained_steps = _restore(options, config, names, device)
    evaluator = experiment.evaluator
    assert evaluator is not None  # there are metrics
    step, seeds = f"step_{trained_steps:08d}", range(config.seed, config.seed + options.seeds)

    print(f"{printable(options.run)}, step {trained_steps}, averaged generator")
    fingerprints = compute_fingerprints(experiment, evaluator, G) if results is not None else {}
    known = {seed: results.find(step, seed, fingerprints) for seed in seeds} if results is not None else {}
    known = broadcast_object(known)
    if count := sum(map(len, known.values())):
        print(f"{count} of {len(seeds) * len(names)} values are not computed again: {printable(path)} has them")
    scores: list[dict[str, float]] = []
    for seed in seeds:
        found = known.get(seed, {})
        missing = [name for name in names if name not in found]
        new = evaluate_seed(G, experiment.inputs, evaluator.select(missing), seed) if missing else {}
        of_seed = {**found, **new}
        scores.append({name: of_seed[name] for name in names})
        print(f"seed {seed}: ", end="")
        _print_scores(scores[-1])
        if results is not None and new:
            results.add(step, seed, new, fingerprints)

    print("\n" + format_table([("", "mean", "std", "n"), *(_summarize(name, scores) for name in scores[0])]))
    print("\nn: number of sets of latents, one for each seed")
    if any(isinstance(value, Estimate) for value in scores[0].values()):
        print("±: standard deviation over the splits (IS) or the subsets (KID) of one set of latents")
    if path is not None:
        print(f"\n{printable(path)}")
    values = {name: {str(seed): of_seed[name] for seed, of_seed in zip(seeds, scores, strict=True)} for name in names}
    spreads = {name: spread for name, of_name in values.items() if (spread := _get_spreads(of_name))}
    printed = {"run": str(options.run), "step": trained_steps, "metrics": values}
    return printed | ({STD: spreads} if spreads else {})


def _get_spreads(values: Mapping[str, float]) -> dict[str, float]:
    return {name: value.std for name, value in values.items() if isinstance(value, Estimate)}


def _print_in_words(scores: Mapping[str, float]) -> None:
    for name, value in scores.items():
        print(f"{describe_metric(name)} ({name}): {format_estimate(value, 6)}")


def _print_scores(scores: Mapping[str, float]) -> None:
    print(", ".join(f"{name} {format_estimate(value, 6)}" for name, value in scores.items()))


def _summarize(name: str, scores: Sequence[Mapping[str, float]]) -> tuple[str, str, str, str]:
    """Return a row of the table: the mean and the standard deviation of a metric over the seeds."""
    values = [of_seed[name] for of_seed in scores]
    mean, spread = statistics.fmean(values), f"{statistics.stdev(values):.3g}" if len(values) > 1 else ""
    if spreads := [value.std for value in values if isinstance(value, Estimate)]:
        mean = Estimate(mean, statistics.fmean(spreads))
    return name, format_estimate(mean, 6), spread, str(len(values))


def _restore(
    options: argparse.Namespace, config: Config, metrics: Sequence[str], device: torch.device
) -> tuple[Experiment, nn.Module, int]:
    """Return the experiment with the evaluator of the metrics, the averaged generator, and its training steps."""
    if is_generator_file(options.run):
        generator = load_generator(options.run, device)
        experiment = build_experiment(replace_metrics(config, metrics), config.data.load(), device)
        check_data(options.run, generator, experiment.image_shape, experiment.contents, config.data.allow_changes)
        experiment.inputs.labels = generator.labels
        G, step = generator.network, generator.step
    else:
        experiment = restore_experiment(options.run, device, options.overrides, options.checkpoint, metrics)
        G, step = experiment.evaluated_generator(), experiment.step
    return experiment, G, step


def select_available(names: Sequence[str], config: Config) -> list[str]:
    """Return the metrics whose weights are not missing, and warn of the others.

    Raises UserError if none is left, if the config allows no metric to be left out, and if the data set is missing.
    """
    errors = config.data.missing()
    missing = find_missing_weights(names, config.metrics)
    available = [name for name in names if parse_protocol(name).features not in missing]
    if not available or not config.metrics.optional:
        errors += missing.values()
    if errors:
        raise UserError(*errors)
    for space, line in missing.items():
        left_out = ", ".join(name for name in names if parse_protocol(name).features == space)
        warnings.warn(f"{line}; left out: {left_out}", stacklevel=2)
    return available


def compute_fingerprints(experiment: Experiment, evaluator: Evaluator, G: nn.Module) -> dict[str, str]:
    """Return for each metric a hash of what its value depends on besides the latents, by name."""
    program = (VALUES, __version__, *versions().items())
    config, state = dump_config(replace_metrics(experiment.config, ())), G.state_dict()
    common = hash_values(program, config, str(experiment.contents), experiment.device.type, *state, *state.values())
    return {str(p): hash_values(common, evaluator.get_fingerprint(p)) for p in evaluator.protocols}


def evaluate_seed(G: nn.Module, inputs: Inputs, evaluator: Evaluator, seed: int) -> dict[str, float]:
    """Return the metrics of G for the latents of a seed."""
    inputs = dataclasses.replace(inputs, seed=seed)
    return evaluator(partial(call_network, G), lambda count, k: inputs.latents(count, "evaluation", k))


def _print_skipped(skipped: Sequence[str]) -> None:
    if skipped:
        more = ", ..." if len(skipped) > 1 else ""
        print(f"skipped {len(skipped)} images that cannot be read ({skipped[0]}{more})")


if __name__ == "__main__":
    sys.exit(main())
