"""Rollback: after a divergence, training continues from the newest checkpoint with other random numbers."""

from pathlib import Path

from gan.run.divergence import DIVERGENCES, record_divergence, stop_diverged
from gan.run.recorder import Recorder
from gan.runtime.distributed import call_on_rank_zero
from gan.runtime.text import printable
from gan.training.experiment import Experiment

MAX_ROLLBACKS = 3  # in one run


def roll_back(experiment: Experiment, folder: Path, recorder: Recorder | None, nonfinite: list[str]) -> None:
    """Restore the newest checkpoint, and draw other random numbers from there on.

    Raises Diverged unless `train.on_nan` is `rollback`, and after three rollbacks. `nonfinite` are the names of the
    values that are not finite, for the message.
    """
    diverged_at, rollbacks = experiment.step, experiment.inputs.rollbacks + 1
    allowed = experiment.config.train.on_nan == "rollback" and rollbacks <= MAX_ROLLBACKS
    check = experiment.check_state
    state = call_on_rank_zero(lambda: recorder.checkpoints.load_newest("cpu", check) if allowed and recorder else None)
    if state is None:
        stop_diverged(folder, diverged_at, nonfinite)
    experiment.load_state_dict(state)
    experiment.inputs.rollbacks = rollbacks
    message = record_divergence(folder, diverged_at, nonfinite, f"rolled back to step {experiment.step}")
    if recorder is not None:
        recorder.save(experiment.state_dict())  # so that a resumed run does not repeat the divergence
        recorder.rewind(experiment.step)
    print(
        f"{message}; rolled back to step {experiment.step}, rollback {rollbacks} of {MAX_ROLLBACKS}: "
        f"see {printable(folder / DIVERGENCES)}"
    )
