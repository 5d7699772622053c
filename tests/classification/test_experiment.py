import copy

import pytest
import torch

from classification.config import SGDConfig
from classification.step import draw_batch, training_step
from tests.gan.runs import same


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_state_that_does_not_fit_is_refused_and_changes_nothing(build, momentum):
    experiment, other = build(optimizer=SGDConfig(momentum=momentum)), build(optimizer=SGDConfig(momentum=momentum))
    training_step(experiment, *draw_batch(experiment))
    state, before = experiment.state_dict(), copy.deepcopy(other.state_dict())
    weight = next(iter(state["network"]))
    groups, moments = state["optimizer"]["param_groups"], state["optimizer"]["state"]
    changes = {
        "step is not a whole number": {"step": None},
        "entry delta does not fit": {"delta": torch.zeros(3)},
        "entry network does not fit: size mismatch": {"network": state["network"] | {weight: torch.zeros(3, 5)}},
        "entry network does not fit: Unexpected key": {"network": state["network"] | {"other": torch.zeros(3)}},
        "entry optimizer does not fit: not the state of": {"optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}},
        "entry optimizer does not fit": {"optimizer": None},
        "other groups of parameters": {"optimizer": {"state": moments, "param_groups": []}},
        "no dampening, lr, momentum": {
            "optimizer": {"state": moments, "param_groups": [{"params": groups[0]["params"]}]}
        },
        "entry lipschitz does not fit": {"lipschitz": [1]},
    }
    for reason, change in changes.items():
        with pytest.raises(ValueError, match=reason):
            other.check_state(state | change)
    for name in ("step", "delta", "network", "optimizer", "lipschitz"):
        with pytest.raises(ValueError, match=f"{name} is missing"):
            other.check_state({key: value for key, value in state.items() if key != name})
    assert same(other.state_dict(), before)
    other.load_state_dict(other.check_state(state))
    assert same(other.state_dict(), state)
