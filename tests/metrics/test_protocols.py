import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics.catalog import METRICS
from metrics.protocols import MetricProtocol, higher_is_better, parse_protocol, parse_protocols


@pytest.mark.parametrize(
    ("name", "protocol"),
    {
        "fid50k_train": MetricProtocol("fid", "inception", 50_000, "train", None),
        "fid5k_test10k": MetricProtocol("fid", "inception", 5000, "test", 10_000),
        "fid50k_file": MetricProtocol("fid", "inception", 50_000, "file", None),
        "is50k": MetricProtocol("is", "inception", 50_000, None, None),
        "is_digits10k": MetricProtocol("is", "digits", 10_000, None, None),
        "modes26k": MetricProtocol("modes", "digits", 26_000, None, None),
        "fd_digits123_test7": MetricProtocol("fd", "digits", 123, "test", 7),
        "kid_my_space2k_train": MetricProtocol("kid", "my_space", 2000, "train", None),
        "fd_dinov2-vit-b-14-50k_train": MetricProtocol("fd", "dinov2-vit-b-14", 50_000, "train", None),
        "precision_clip-rn50-10k_test": MetricProtocol("precision", "clip-rn50", 10_000, "test", None),
    }.items(),
)
def test_parse_protocol(name, protocol):
    assert parse_protocol(name) == protocol
    assert str(protocol) == name


feature_spaces = st.from_regex(r"[a-z]+([-_][a-z0-9]+)*", fullmatch=True).filter(
    lambda name: not name.startswith(("train", "test"))
)


@settings(max_examples=30, deadline=None)  # names from a regular expression are slow
@given(
    st.sampled_from(sorted(METRICS)),
    feature_spaces,
    st.integers(10, 10**7),
    st.sampled_from(["train", "test"]),
    st.none() | st.integers(10, 10**7),
)
def test_names_and_protocols_round_trip(metric, features, count, reference, reference_count):
    spec = METRICS[metric]
    if metric == "fid":
        features = "inception"
    if spec.required_reference == "none":
        reference = reference_count = None
    protocol = MetricProtocol(metric, features, count, reference, reference_count)
    assert parse_protocol(str(protocol)) == protocol


def test_counts_are_formatted_uniquely():
    assert str(parse_protocol("fid50000_train10000")) == "fid50k_train10k"


@pytest.mark.parametrize(
    ("name", "message"),
    {
        "fid": "not a metric protocol",
        "fid50k": "fid50k_train or fid50k_test",
        "fidd50k_train": "unknown metric 'fidd'",
        "is50k_train": "is has no real images; remove _train",
        "fd10k_test": "does not name a feature space",
        "fid_digits10k_test": "write fd_digits",
        "kid10k_file": "file of statistics",
        "fid50k_file10k": "file of statistics",
        "fid1_train": "at least 2 images",
        "is9": "at least 10 images",
        "precision3_train": "at least 4 images",
        "fid10k_test1": "at least 2 images",
        "fid50k_valid": "not a metric protocol",
        "": "not a metric protocol",
        "modes1000000000000": "at most 10,000,000 images",
        "modes10001k": "at most 10,000,000 images",
        "fid10k_train10000001": "at most 10,000,000 images",
        "is" + "9" * 900: "at most 10,000,000 images",
        "fd_" + "1" * 80_000: "longer than 1000 characters",
    }.items(),
)
def test_invalid_names_are_rejected(name, message):
    with pytest.raises(ValueError, match=message):
        parse_protocol(name)


def test_number_of_metrics_is_limited():
    names = [f"modes{count}" for count in range(2, 80_002)]
    assert len(parse_protocols(names[:100])) == 100
    with pytest.raises(ValueError, match="at most 100 metrics are possible, not 80,000"):
        parse_protocols(names)


def test_higher_is_better():
    assert not any(map(higher_is_better, ("fid10k_train", "kid10k_train", "kl10k", "fd_digits10k_test")))
    assert all(map(higher_is_better, ("is10k", "modes10k", "recall10k_train", "coverage10k_test", "confident10k")))
