from gan.run.summary import format_results
from metrics.estimate import Estimate


def test_results_show_the_standard_deviation_of_metrics_with_parts():
    values = {"metrics/fd10k": 1.25, "metrics/is10k": 7.446, "metrics_std/is10k": 0.1234}
    rows = format_results(values, ["fd10k", "is10k"], {"is10k": Estimate(9.54, 0.05)}).splitlines()
    assert [" ".join(row.split()) for row in rows[1:3]] == ["fd10k 1.25", "is10k 7.446 ± 0.12 9.54 ± 0.05"]
