import pytest

from gan.compare.tags import get_metric_tags, higher_is_better


def test_validation_metrics_come_last():
    rows = [{"metrics/accuracy_validation": 1.0, "metrics/accuracy_test": 1.0, "metrics/accuracy_pgd8_20x1": 1.0}]
    assert get_metric_tags(rows) == [
        "metrics/accuracy_test",
        "metrics/accuracy_pgd8_20x1",
        "metrics/accuracy_validation",
    ]
    assert all(higher_is_better(tag) for tag in get_metric_tags(rows))


@pytest.mark.parametrize(
    ("name", "higher"),
    [
        ("fid50k_train", False),
        ("fd_digits10k_test", False),
        ("kl10k", False),
        ("modes10k", True),
        ("is_digits10k", True),
    ],
)
def test_direction_of_a_metric(name, higher):
    assert higher_is_better(f"metrics/{name}") is higher


def test_direction_of_an_unknown_metric():
    assert higher_is_better("metrics/unheard_of") is None
