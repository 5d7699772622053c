import pytest

from gan.compare.report.plots import BLACK, GRAY, choose_colors, group_arms


def test_many_arms_are_plotted_in_groups_with_the_baseline():
    names = ["none", "a", "b", "c", "d,stride=paper"]
    arms = [f"{name}{suffix}" for name in names for suffix in ("", ",r1")]
    groups = group_arms(arms, "none")
    assert list(groups) == ["", "r1"]
    assert groups[""] == names
    assert groups["r1"] == ["none", *(f"{name},r1" for name in names)]
    assert group_arms(arms[:8], "none") == {"": arms[:8]}


@pytest.mark.parametrize("count", [3, 8, 15])
def test_arms_that_differ_in_the_group_share_a_color(count):
    colors = choose_colors([f"{i}{suffix}" for i in range(count) for suffix in ("", ",r1")], "2")
    assert colors["2"] == BLACK
    assert colors["2,r1"] == GRAY
    assert all(colors[f"{i}"] == colors[f"{i},r1"] for i in range(count) if i != 2)
    assert len(set(colors.values())) == count + 1
