"""The options of Slurm's jobs: --slurm KEY=VALUE ..., which become parameters of submitit's executor."""

# pyright: reportMissingImports=false
# (submitit is an optional dependency.)

import math
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from submitit import AutoExecutor, SlurmExecutor

from gan.options.nodes import ConfigError, Node, parse_yaml
from gan.runtime.errors import UserError

CLUSTER = "slurm"
COMMANDS = ("sbatch", "srun", "sacct", "scontrol")
MAX_TIMEOUTS = 1000  # the number of time limits that a job may use; a longer one is a mistake
DEFAULTS = {"timeout_min": 60, "signal_delay_s": 90}
COUNTS = {"timeout_min": 1, "signal_delay_s": 1, "cpus_per_task": 1, "cpus_per_gpu": 1, "gpus_per_node": 0}  # minima
MIN_MEM_GB = 0.001  # Slurm's unit is MB, and none would mean the memory of the whole node
LISTS = ("setup", "teardown", "srun_args")
# A cell is one process, --jobs is the number of jobs at a time, and only srun passes Slurm's signals on to a cell. The
# other ones have two names in submitit.
EXCLUDED = {"nodes", "tasks_per_node", "array_parallelism", "use_srun", "stderr_to_stdout", "num_gpus"}
DUPLICATES = {"job_name", "time", "mem", "ntasks_per_node"}
COMMON = AutoExecutor._valid_parameters() - EXCLUDED
TYPED = COMMON | DEFAULTS.keys() | {"additional_parameters"}
ACCEPTED = sorted(COMMON | SlurmExecutor._valid_parameters() - EXCLUDED - DUPLICATES)


def parse_parameters(words: Iterable[str]) -> dict[str, Any]:
    """Return the parameters in words `key=value`, whose values are YAML, with the defaults of the others.

    Raises UserError for invalid parameters, and if this machine cannot submit jobs.
    """
    parameters: dict[str, Any] = dict(DEFAULTS)
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not text.strip():
            raise UserError(f"--slurm {word}: expected KEY=VALUE; CONFIG and its overrides come before --slurm")
        if key not in ACCEPTED:
            names = ", ".join(ACCEPTED)
            raise UserError(
                f"--slurm {key}: unknown; known are {names} (other options of sbatch: additional_parameters)"
            )
        parameters[key] = _parse_value(key, text)
    create_executor(Path(), parameters)
    return parameters


def create_executor(folder: Path, parameters: dict[str, Any]) -> AutoExecutor:
    """Return an executor whose files are in a folder.

    Raises UserError for parameters of a wrong type, and if this machine cannot submit jobs.
    """
    if missing := [command for command in COMMANDS if shutil.which(command) is None]:
        raise UserError(
            f"--launcher slurm: this machine has no {', '.join(missing)}; start the comparison where jobs are submitted"
        )
    executor = AutoExecutor(folder, cluster=CLUSTER, slurm_max_num_timeout=MAX_TIMEOUTS)
    named = {key if key in COMMON else f"slurm_{key}": value for key, value in parameters.items()}
    try:
        executor.update_parameters(**named)
    except (AssertionError, TypeError, ValueError) as error:
        raise UserError(f"--slurm: {error}") from None
    return executor


def _parse_value(key: str, text: str) -> Any:
    """Return a value of YAML. What sbatch is given as text stays as it is, such as 007."""
    try:
        value = _to_plain(parse_yaml(text, f"--slurm {key}"))
    except ConfigError as error:
        raise UserError(f"{error} (in --slurm {key}={text})") from None
    if key in LISTS:
        return value if isinstance(value, list) else [text]
    if key in COUNTS and (type(value) is not int or value < COUNTS[key]):
        raise UserError(f"--slurm {key}={text}: expected a whole number, at least {COUNTS[key]}")
    if key == "mem_gb" and not (type(value) in (int, float) and math.isfinite(value) and value >= MIN_MEM_GB):
        raise UserError(f"--slurm {key}={text}: expected a number, at least {MIN_MEM_GB}")
    if key == "additional_parameters" and not isinstance(value, dict):
        raise UserError(f"--slurm {key}={text}: expected a mapping, such as {{reservation: NAME, nice: 100}}")
    return value if key in TYPED or isinstance(value, bool) else text


def _to_plain(node: Node) -> Any:
    if isinstance(node.value, dict):
        return {key: _to_plain(child) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return [_to_plain(child) for child in node.value]
    return node.value
