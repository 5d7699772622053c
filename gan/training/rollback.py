"""Rollback: after a divergence, training continues from the newest checkpoint with other random numbers."""

from pathlib import Path

from gan.run.divergence import DIVERGENCES, record_divergence, stop_diverged
from gan.run.recorder import Recorder
from gan.runtime.distributed import call_on_rank_zero
from gan.training.experiment import Experiment

MAX_ROLLBACKS = 3  # in one run


def roll_back(experiment: Experiment, folder: Path, recorder: Recorder | None, nonfinite: list[str]) -> None:
    """Restore the newest checkpoint, and draw other random numbers from there on.

    Raises Diverged when the config does not ask for it (`train.on_nan`), and after three rollbacks. `nonfinite` names
    the values that are not finite.
    """
    diverged_at, attempt = experiment.step, experiment.inputs.retries + 1
    allowed = experiment.config.train.on_nan == "rollback" and attempt <= MAX_ROLLBACKS
    state = call_on_rank_zero(lambda: recorder.checkpoints.load_newest("cpu") if allowed and recorder else None)
    if state is None:
        raise stop_diverged(folder, diverged_at, nonfinite)
    experiment.load_state_dict(state)
    experiment.inputs.retries = attempt
    message = record_divergence(folder, diverged_at, nonfinite, f"rolled back to step {experiment.step}")
    if recorder is not None:
        recorder.checkpoints.save(experiment.state_dict())  # so that a resumed run does not repeat the divergence
        recorder.rewind(experiment.step)
    print(
        f"{message}; rolled back to step {experiment.step}, attempt {attempt} of {MAX_ROLLBACKS}: "
        f"see {folder / DIVERGENCES}"
    )
