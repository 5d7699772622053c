from gan.compare.report.document import Paragraph
from gan.compare.report.significance import build_test_blocks
from tests.gan.compare.report.test_tables import build_rows

TAG = "metrics/fd_digits10k_test"
LOW, HIGH = [1.0, 2.0, 3.0, 4.0, 5.0], [16.0, 17.0, 18.0, 19.0, 20.0]


def get_texts(values: dict[str, list[float | str]]) -> list[str]:
    """The paragraphs of the section on differences. Its table is replaced by the arms that are tested."""
    blocks = build_test_blocks(build_rows(values), TAG, "base")
    return [
        block.text if isinstance(block, Paragraph) else " ".join(row[0].text for row in block.rows) for block in blocks
    ]


def test_caution_has_the_seeds_of_the_arm_and_of_the_baseline():
    (caution,) = get_texts({"base": LOW[:3], "three": HIGH[:3], "two": HIGH[:2]})
    assert caution.startswith("No significance is claimed for three, two: ")
    assert "2 against 3 seeds cannot reach p < 0.1; 3 against 3 seeds cannot reach p < 0.1." in caution
    (caution,) = get_texts({"base": LOW, "one": HIGH[:1]})
    assert "1 against 5 seeds cannot reach p < 0.17." in caution


def test_three_seeds_are_tested_against_five():
    test, tested = get_texts({"base": LOW, "three": HIGH[:3]})
    assert tested == "three"
    assert "permutation test" in test
    assert "cannot reach" not in test


def test_report_says_if_no_arm_can_be_significant_after_the_correction():
    test, tested, caution = get_texts(
        {"base": LOW, "five": HIGH} | {f"two{i}": HIGH[:2] for i in range(1, 9)} | {"broken": [9.0, "diverged"]}
    )
    assert tested.split() == ["five", *(f"two{i}" for i in range(1, 9))]
    assert "With 10 arms, these numbers of seeds cannot reach p < 0.079 after the correction" in test
    assert "No significance is claimed for broken: an arm with a cell that diverged" in caution


def test_nothing_is_tested_against_an_incomplete_baseline():
    (caution,) = get_texts({"base": [*LOW, "failed"], "five": HIGH})
    assert "No significance is claimed for five: an arm with a cell that diverged" in caution
