import matplotlib as mpl
import pytest

from gan.compare.report.plots import BLACK, GRAY, ArmCurves, Line, Plot, choose_colors, draw_plot, group_arms


def test_many_arms_are_plotted_in_groups_with_the_baseline():
    names = ["none", "a", "b", "c", "d,stride=paper"]
    arms = [f"{name}{suffix}" for name in names for suffix in ("", ",r1")]
    groups = group_arms(arms, "none")
    assert list(groups) == ["", "r1"]
    assert groups[""] == names
    assert groups["r1"] == ["none", *(f"{name},r1" for name in names)]
    assert group_arms(arms[:8], "none") == {"": arms[:8]}


def test_plots_do_not_depend_on_the_settings_of_the_user(tmp_path):
    curves = [ArmCurves("none", BLACK, [[{"images": 1000.0, "fid": 3.0}, {"images": 2000.0, "fid": 2.0}]])]
    plot = Plot("fid", "FID", "fid", [Line("fid")])
    assert draw_plot(tmp_path / "default", plot, curves, "images")
    with mpl.rc_context({"text.usetex": True, "axes.linewidth": 9, "savefig.facecolor": "red"}):  # as in a matplotlibrc
        assert draw_plot(tmp_path / "changed", plot, curves, "images")
    for suffix in (".png", ".svg"):
        assert (tmp_path / f"default{suffix}").read_bytes() == (tmp_path / f"changed{suffix}").read_bytes()


@pytest.mark.parametrize("count", [3, 8, 15])
def test_arms_that_differ_in_the_group_share_a_color(count):
    colors = choose_colors([f"{i}{suffix}" for i in range(count) for suffix in ("", ",r1")], "2")
    assert colors["2"] == BLACK
    assert colors["2,r1"] == GRAY
    assert all(colors[f"{i}"] == colors[f"{i},r1"] for i in range(count) if i != 2)
    assert len(set(colors.values())) == count + 1
