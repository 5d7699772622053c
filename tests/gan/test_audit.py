import pytest

from gan.audit import main

pytestmark = pytest.mark.usefixtures("short_slope_search")


@pytest.mark.parametrize("normalization", ["none", "conv_norm", "gradient"])
def test_audit_prints_every_layer(tmp_path, tiny_run, capsys, normalization):
    folder = tiny_run(tmp_path / "run", f"discriminator.normalization={normalization}", "train.steps=2")
    capsys.readouterr()
    assert main([str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines[-8:])) <= 80, "the explanation fits in a terminal"
    rows = [line.split() for line in lines if "downs." in line or "head." in line]
    assert len(rows) == 3
    for row in rows:
        *_, tracked, certified, exact, rank = map(float, row[1:])
        assert tracked <= certified
        assert tracked == pytest.approx(exact, rel=5e-3)
        assert rank >= 1
    certified = next(line for line in lines if line.startswith("D: certified")).split(maxsplit=4)[-1].strip()
    observed = next(line for line in lines if line.startswith("D: steepest")).split()[-1]
    if normalization == "gradient":
        assert certified.startswith("none (GradientNormalized")
    else:
        assert float(certified) >= float(observed)


def test_folder_without_a_run_is_an_error(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: ")
