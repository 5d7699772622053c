"""Rollback: a run that has diverged goes back to its newest checkpoint, with other random numbers from there on."""

from gan.run.checkpoint import Checkpoints
from gan.run.divergence import DIVERGENCES, Diverged, record_divergence, stopped
from gan.runtime.distributed import call_on_rank_zero, first_only
from gan.training.experiment import Experiment

TRIES = 3  # rollbacks in a run


def roll_back(run: Experiment, checkpoints: Checkpoints, diverged: Diverged) -> None:
    """Go back to the newest checkpoint and take other random numbers from there on; Diverged when the config asks for
    no rollback, and after TRIES of them.
    """
    tries = run.retries + 1
    may = run.config.train.on_nan == "rollback" and tries <= TRIES
    state = call_on_rank_zero(lambda: checkpoints.load_newest("cpu")) if may else None
    if state is None:
        raise stopped(run.folder, diverged)
    run.load_state_dict(state)
    run.retries = tries
    checkpoints.save(run.state_dict())  # so that a resumed run does not try the same once more
    first_only(record_divergence)(run.folder, diverged.diagnosis | {"then": f"rolled back to step {run.step}"})
    print(f"{diverged}; rolled back to step {run.step}, try {tries} of {TRIES}: see {run.folder / DIVERGENCES}")
