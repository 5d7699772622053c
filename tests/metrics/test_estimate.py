import json
import pickle

from metrics.estimate import Estimate, format_estimate


def test_estimate_is_a_float_with_a_standard_deviation():
    estimate = Estimate.from_values([1.0, 2.0, 6.0])
    assert (estimate, estimate.std) == (3.0, (14 / 3) ** 0.5)
    assert json.dumps({"a": estimate}) == '{"a": 3.0}'
    assert pickle.loads(pickle.dumps(estimate)).std == estimate.std
    assert format_estimate(estimate, 4) == "3 ± 2.2"
    assert format_estimate(float(estimate), 4) == "3"
