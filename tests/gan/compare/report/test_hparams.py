import shutil

import pytest
from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer
from tensorboard.plugins.hparams import metadata

from gan.compare.__main__ import main
from gan.compare.csv_files import read_table
from gan.compare.description import Description
from gan.compare.report.hparams import get_hparams


@pytest.fixture(autouse=True)
def keep_signal_handlers(monkeypatch):
    monkeypatch.setattr("signal.signal", lambda *arguments: None)


def test_tensorboard_finds_hparams_of_each_cell_and_no_other_run(grid, tmp_path, monkeypatch):
    monkeypatch.setattr("gan.compare.report.write.write_report", lambda *arguments: [])  # other tests check it
    out = tmp_path / "out"
    shutil.copytree(grid, out)
    written = []
    for _ in range(2):
        assert main(["--report", str(out)]) == 0
        written.append({path.relative_to(out): path.read_bytes() for path in out.rglob("events.*")})
    assert written[0] == written[1]
    assert written[0].keys() == {path.relative_to(grid) for path in grid.rglob("events.*")}
    events = EventMultiplexer().AddRunsFromDirectory(str(grid)).Reload()
    found = events.PluginRunToTagToContent(metadata.PLUGIN_NAME)
    cells = [row["cell"] for row in read_table(grid / "results.csv")]
    runs = [f"cells/{cell}" for cell in cells]
    assert set(events.Runs()) == set(found) == set(runs)
    assert [run for run in runs if metadata.EXPERIMENT_TAG in found[run]] == runs[:1]
    experiment = metadata.parse_experiment_plugin_data(found[runs[0]][metadata.EXPERIMENT_TAG])
    assert [info.name for info in experiment.hparam_infos] == ["arm", "seed", "discriminator.normalization"]
    tags = {info.name.tag for info in experiment.metric_infos}
    assert {"1_metrics/fd_digits70_test", "5_lipschitz/D/certified"} <= tags
    for row in read_table(grid / "results.csv"):
        run = f"cells/{row['cell']}"
        start = metadata.parse_session_start_info_plugin_data(found[run][metadata.SESSION_START_INFO_TAG])
        assert start.hparams["arm"].string_value == row["arm"]
        assert start.hparams["seed"].string_value == str(row["seed"])
        assert tags <= set(events.GetAccumulator(run).PluginTagToContent("scalars"))  # the tab shows their last values


def test_axis_has_numbers_if_all_its_values_are_numbers():
    cells = {
        "a": {"arm": "a", "seed": 0, "axes": {"lr": "1e-3", "stride": "2"}},
        "b": {"arm": "b", "seed": 1, "axes": {"lr": "2e-3", "stride": "paper"}},
        "c": {"arm": "c", "seed": 2, "axes": {}},
    }
    assert get_hparams(Description("c.yaml", {}, "a", cells)) == {
        "a": {"arm": "a", "seed": "0", "lr": 1e-3, "stride": "2"},
        "b": {"arm": "b", "seed": "1", "lr": 2e-3, "stride": "paper"},
        "c": {"arm": "c", "seed": "2"},
    }
