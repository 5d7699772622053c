import matplotlib as mpl
import pytest

from gan.compare.report import plots
from gan.compare.report.plots import BLACK, GRAY, ArmCurves, Axis, Line, Plot, choose_colors, draw_plot, group_arms

IMAGES = Axis("images", "images (thousands)", 1000)


def build_plot(label: str = "fid", log_scale: bool = False) -> Plot:
    return Plot("fid", "FID", IMAGES, label, [Line("fid")], log_scale)


def test_many_arms_are_plotted_in_groups_with_the_baseline():
    names = ["none", "a", "b", "c", "d,stride=paper"]
    arms = [f"{name}{suffix}" for name in names for suffix in ("", ",r1")]
    groups = group_arms(arms, "none", ["a", "b,r1"])
    assert list(groups) == [plots.BEST, "", "r1"]
    assert groups[plots.BEST] == ["a", "b,r1"]
    assert groups[""] == names
    assert groups["r1"] == ["none", *(f"{name},r1" for name in names)]
    assert group_arms(arms[:8], "none", ["a"]) == {"": arms[:8]}


def test_plots_do_not_depend_on_the_settings_of_the_user(tmp_path):
    curves = [ArmCurves("none", BLACK, [[{"images": 1000.0, "fid": 3.0}, {"images": 2000.0, "fid": 2.0}]])]
    plot = build_plot()
    assert draw_plot(tmp_path / "default", plot, curves)
    with mpl.rc_context({"text.usetex": True, "axes.linewidth": 9, "savefig.facecolor": "red"}):  # as in a matplotlibrc
        assert draw_plot(tmp_path / "changed", plot, curves)
    for suffix in (".png", ".svg"):
        assert (tmp_path / f"default{suffix}").read_bytes() == (tmp_path / f"changed{suffix}").read_bytes()


@pytest.mark.parametrize("values", [(1e308, -1e308), (1e31, float("nan"))])
def test_values_that_cannot_be_plotted_are_left_out(tmp_path, values):
    points = [{"images": 1000.0, "fid": 3.0}, *({"images": 2000.0, "fid": value} for value in values)]
    curves = [ArmCurves("none", BLACK, [[*points, {"images": 1e308, "fid": 3.0}]])]
    band = curves[0].compute_band("fid", IMAGES)
    assert band is not None
    assert band.T.tolist() == [[1, 3, 3, 3]]
    assert draw_plot(tmp_path / "plot", build_plot(), curves)


def test_plot_that_cannot_be_drawn_is_skipped_with_a_line(tmp_path):
    curves = [ArmCurves("none", BLACK, [[{"images": 1000.0, "fid": 3.0}]])]
    plot = build_plot("$\\unknown$")
    with pytest.warns(UserWarning, match="fid: cannot draw this plot .*; continuing without it"):
        assert not draw_plot(tmp_path / "fid", plot, curves)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("count", [3, 8, 15])
def test_arms_that_differ_in_the_group_share_a_color(count):
    colors = choose_colors([f"{i}{suffix}" for i in range(count) for suffix in ("", ",r1")], "2")
    assert colors["2"] == BLACK
    assert colors["2,r1"] == GRAY
    assert all(colors[f"{i}"] == colors[f"{i},r1"] for i in range(count) if i != 2)
    assert len(set(colors.values())) == count + 1


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((3.7,), ["1", "2", "5", "10"]),
        ((3.1, 3.9), ["3.2", "3.4", "3.6", "3.8"]),
        ((3.0, 40.0), ["2", "5", "10", "20", "50"]),
        ((0.5, 2e6), ["0.1", "1", "10", "100", "1,000", "10,000", "100,000", "1,000,000"]),
    ],
)
def test_logarithmic_axes_have_plain_numbers(tmp_path, monkeypatch, values, expected):
    figures = []
    monkeypatch.setattr(plots.FigureCanvasSVG, "print_svg", lambda canvas, file, **_: figures.append(canvas.figure))
    points = [{"images": 1000.0 * i, "fid": value} for i, value in enumerate(values)]
    assert draw_plot(tmp_path / "fid", build_plot(log_scale=True), [ArmCurves("none", BLACK, [points])])
    (axes,) = figures[0].axes
    labels = [label.get_text() for label in axes.get_yticklabels(which="both")]
    assert [label for label in labels if label in expected] == expected
    assert not any("$" in label or "e+" in label for label in labels)
