import json
import os
import stat

import pytest

from gan.runtime.files import write_atomically, write_json, write_text


def test_failed_write_leaves_only_the_old_file(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, lambda file: file.write(b"old"))

    def fail(file):
        file.write(b"ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_file_mode_follows_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "file", lambda file: file.write(b"x"))
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_json_file_is_readable_and_ends_with_newline(tmp_path):
    value = {"ä": [1, None], "b": {"c": 0.5}}
    write_json(tmp_path / "new folder" / "file.json", value)
    content = (tmp_path / "new folder" / "file.json").read_bytes()
    assert content == '{\n "ä": [\n  1,\n  null\n ],\n "b": {\n  "c": 0.5\n }\n}\n'.encode()
    assert json.loads(content) == value


def test_json_file_keeps_file_names_that_are_not_utf8(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    write_json(tmp_path / "file.json", [name])
    assert json.loads((tmp_path / "file.json").read_text("utf-8")) == [name]


def test_text_file_is_utf8(tmp_path):
    write_text(tmp_path / "file.txt", "é\n")
    assert (tmp_path / "file.txt").read_bytes() == b"\xc3\xa9\n"
