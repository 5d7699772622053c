"""Settle everything that only a GPU can settle, in at most 8 minutes, and keep every result from the moment it exists.

    python benchmarks/gpu_check.py                        # make gpu: on a machine with a GPU
    python benchmarks/gpu_check.py --only step profiles
    python benchmarks/gpu_check.py --device cpu --tiny    # try the check itself, without a GPU

Each stage is a process of its own. A stage that fails or takes too long keeps what it has written, and the others go
on. Results are appended to OUT/results.jsonl. OUT/summary.md and OUT/GPU.json are written anew after each stage, on a
GPU also docs/benchmarks/GPU.json, from which the tables of docs/benchmarks.md are made. OUT/log.txt has the output of
all stages.

torch-mimicry is compared if it is installed: pip install --no-deps torch-mimicry. On a machine with several GPUs, the
first one is used.
"""

import argparse
import importlib
import signal
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.gpu.chart import write_chart  # noqa: E402
from benchmarks.gpu.driver import Stage, run_stages  # noqa: E402
from benchmarks.gpu.results import END, collect, file_name, format_tables, write_json  # noqa: E402

# By name: module in benchmarks/gpu/, seconds after which it is ended, and whether it runs alone because it is timed.
# In the order of their worth, since there may be no time for the last ones.
STAGES = {
    "environment": ("correctness", 60, False),
    "tests": ("correctness", 150, False),
    "runs": ("correctness", 130, False),
    "step": ("speed", 90, True),
    "compiled": ("speed", 100, True),
    "normalizations": ("speed", 50, True),
    "profiles": ("speed", 80, True),
    "lipschitz": ("speed", 60, True),
    "filters": ("kernels", 30, True),
    "rewrites": ("kernels", 40, True),
    "networks": ("speed", 80, True),
    "ceilings": ("kernels", 60, True),
}
DEFAULT_OUT = ROOT / "build" / "gpu_check"
DEFAULT_SECONDS = 465.0  # 8 minutes, less what starting and ending processes takes
SLOWER = 4  # a CPU gets this many times as long for each stage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="folder of the results")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to try the check itself")
    parser.add_argument("--only", nargs="+", choices=STAGES, metavar="STAGE", help=f"of {', '.join(STAGES)}")
    parser.add_argument("--seconds", type=float, default=DEFAULT_SECONDS, help="for all stages (default: %(default)g)")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.stage is not None:
        run_stage(options)
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the processes of the stages too
    names = ["environment", *(name for name in STAGES if name != "environment" and name in (options.only or STAGES))]
    stages = {name: make_stage(name, options) for name in names}
    results = options.out / "results.jsonl"
    log = options.out / "log.txt"
    run_stages(stages, results, log, options.seconds, lambda: summarize(options), get_revision)
    print((options.out / "summary.md").read_text(encoding="utf-8"))
    ends = {name: values[END]["ended"] for name, values in collect(results).items() if name in names}
    incomplete = [f"{name}: {end}" for name, end in ends.items() if end != "complete"]
    if incomplete:
        sys.exit("; ".join(incomplete))


def make_stage(name: str, options: argparse.Namespace) -> Stage:
    """Return a stage whose process is this script."""
    _, seconds, alone = STAGES[name]

    def command(seconds: float) -> list[str]:
        words = ["--stage", name, "--out", str(options.out), "--device", options.device, "--seconds", str(seconds)]
        return [sys.executable, "-u", str(Path(__file__).resolve()), *words, *(["--tiny"] if options.tiny else [])]

    return Stage(command, seconds * (SLOWER if options.device == "cpu" else 1), alone)


def get_revision() -> dict[str, str]:
    """Return the revision of the code, which a stage records: others in the results may have run another one."""
    from gan.runtime.provenance import revision  # imports PyTorch, while the first stages run

    return {"revision": revision()}


def summarize(options: argparse.Namespace) -> None:
    """Write the summary and the JSON of all results so far."""
    stages = collect(options.out / "results.jsonl")
    stages = {name: stages[name] for name in STAGES if name in stages}
    gpu = stages.get("environment", {}).get("device", {}).get("name", "unknown device")
    (options.out / "summary.md").write_text(format_tables(gpu, stages) + "\n", encoding="utf-8")
    write_json(options.out / file_name(gpu), gpu, stages)
    if stages.get("environment", {}).get(END, {"ended": "complete"})["ended"] != "complete":
        sys.exit(f"the stage environment failed; see {options.out / 'log.txt'}")  # for example without a GPU
    if options.device == "cuda" and not options.tiny and gpu != "unknown device":
        page = ROOT / "docs" / "benchmarks" / file_name(gpu)
        write_chart(page.with_suffix(".svg"), gpu, write_json(page, gpu, stages))


def run_stage(options: argparse.Namespace) -> None:
    """Run a stage in this process."""
    until = time.monotonic() + options.seconds
    from benchmarks.gpu.task import Task
    from gan.runtime.device import select_device
    from gan.runtime.rng import set_deterministic

    device = select_device(options.device)
    set_deterministic(False)  # as a run does: cuDNN then measures its algorithms
    task = Task(options.stage, options.out / "results.jsonl", device, options.tiny, until)
    function = getattr(importlib.import_module(f"benchmarks.gpu.{STAGES[options.stage][0]}"), options.stage)
    try:
        function(task)
    except Exception as error:
        task.note_error(options.stage, error)
        sys.exit(1)


if __name__ == "__main__":
    main()
