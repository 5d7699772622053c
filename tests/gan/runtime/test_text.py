import os
import re
import warnings

import pytest

from gan.data.__main__ import main as show_data
from gan.runtime.command import short_messages
from gan.runtime.errors import Stopped, UserError
from gan.runtime.files import WriteError, write_atomically
from gan.runtime.text import fit, printable
from gan.sample.__main__ import main as sample
from tests.gan.data.packing import encode, write_files
from train_gan import main as train

TITLE = "\x1b]0;title\x07\x1b[31mred"
SHOWN = r"\x1b]0;title\x07\x1b[31mred"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a b-ü日✓", "a b-ü日✓"),
        ("no\xa0break", "no\xa0break"),
        (TITLE, SHOWN),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x7f\x85\x9b31m", r"\x7f\x85\x9b31m"),
        ("abc\u202edcba", r"abc\u202edcba"),
        ("\u2028", r"\u2028"),
        (os.fsdecode(b"caf\xe9"), r"caf\udce9"),
    ],
)
def test_printable(text, shown):
    assert printable(text) == shown


def test_errors_have_no_control_characters(tmp_path):
    assert str(UserError(f"a\n{TITLE}")) == f"a {SHOWN}"
    assert str(Stopped(TITLE, 1)) == SHOWN
    with pytest.raises(WriteError) as error:
        write_atomically(tmp_path / TITLE / ("x" * 300), lambda file: None)
    assert SHOWN in str(error.value)
    assert "\x1b" not in str(error.value)


def test_warnings_have_no_control_characters():
    with short_messages():
        assert warnings.formatwarning(TITLE, UserWarning, "file.py", 1) == f"warning: {SHOWN}\n"


@pytest.mark.usefixtures("short_slope_search")
@pytest.mark.filterwarnings("ignore:skipped 1 of 5 images")
def test_names_are_printed_without_control_characters(tmp_path, copied_run, capfd):
    run = copied_run.rename(tmp_path / TITLE)
    assert train(["--out", str(run), "--resume", "--device", "cpu"]) == 0
    assert sample([str(run), "--out", str(run / "grid.png"), "--device", "cpu"]) == 0
    assert sample([str(run), "--out", str(run / "grid.png"), "--device", "cpu"]) == 2
    files = {f"{folder}/{i}.png": encode(i) for folder in ("class", TITLE) for i in range(2)}
    images = write_files(tmp_path / "images", files | {f"{TITLE}/2.png": b"no image"})
    assert show_data(["folder", f"root={images}", "skip_corrupt=true", "resolution=8"]) == 0
    assert show_data(["folder", f"root={images}", "resolution=8"]) == 2
    out, err = capfd.readouterr()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", out + err)
    assert (
        out.count(SHOWN) == 8
    )  # twice at the start, thrice at the end, the sample, the class, and the image that is skipped
    assert err.count(SHOWN) == 2


def test_lines_fit_into_the_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    texts = {
        "short\n\n  kept   as it is\n": "short\n\n  kept   as it is\n",
        "one line that is too long": "one line that is too\nlong",
        "  an indented line of words": "  an indented line\n  of words",
        "  --out  a file to be written": "  --out  a file to\n         be written",
        "  a long first column  then more": "  a long first\n  column  then more",
        "  data.root_and_more_than_20_characters": "  data.root_and_more_than_20_characters",
        "x " * 9 + "well-known words": "x x x x x x x x x\nwell-known words",
    }
    assert {text: fit(text) for text in texts} == texts
