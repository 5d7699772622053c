import json
import os
import stat
import time

import pytest

from gan.runtime import files
from gan.runtime.files import append, only_regular, write_atomically, write_json, write_text
from gan.runtime.temporary import MAX_AGE_S, is_temporary, name_temporary, remove_dead


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
    masks = []

    def write(file):
        file.write(b"x")
        masks.append(os.umask(0o027))

    try:
        write_atomically(tmp_path / "file", write)
        assert masks == [0o027]
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


def test_umask_of_other_threads_does_not_change(tmp_path, monkeypatch):
    """A process has one umask: while it is 0, files of other threads would be writable for everyone."""
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("the umask was changed"))
    write_atomically(tmp_path / "file", lambda file: file.write(b"x"))


def test_file_with_the_longest_name_can_be_written(tmp_path):
    path = tmp_path / ("日" * 85)
    write_atomically(path, lambda file: file.write(b"x"))
    assert list(tmp_path.iterdir()) == [path]


def test_temporary_files_of_other_machines_are_removed_a_day_later(tmp_path):
    def leave(name: str, age: float):
        path = tmp_path / name
        path.mkdir()
        (path / "file").touch()
        for changed in (path, path / "file"):
            os.utime(changed, (time.time() - age,) * 2)
        return path

    system, pid = name_temporary(tmp_path / "x").name.split(".")[2].split("-")[:2]
    assert int(pid) == os.getpid()
    elsewhere = f"{int(system, 16) ^ 1:08x}"
    young = leave(f".x.{elsewhere}-1-00000000.tmp", MAX_AGE_S - 60)
    old = leave(f".x.{elsewhere}-2-00000000.tmp", MAX_AGE_S + 60)
    mine = leave(f".x.{system}-{pid}-00000000.tmp", MAX_AGE_S + 60)  # of a process that is alive
    written = leave(f".x.{elsewhere}-3-00000000.tmp", MAX_AGE_S + 60)
    (written / "file").touch()
    others = [leave(name, MAX_AGE_S + 60) for name in (".x.tmp", ".x.1-2-3.tmp", f".x.{system}-{pid}-00000000")]
    remove_dead(tmp_path.iterdir())
    assert set(tmp_path.iterdir()) == {young, mine, written, *others}
    assert is_temporary(old)
    assert is_temporary(mine)
    assert not any(map(is_temporary, others))


def test_links_to_folders_are_removed_without_their_contents(tmp_path):
    target = tmp_path / "folder"
    target.mkdir()
    (target / "file").touch()
    link = name_temporary(tmp_path / "x")
    link = link.with_name(link.name.replace(f"-{os.getpid()}-", "-4194304-"))  # no process has this ID
    link.symlink_to(target)
    remove_dead(tmp_path.iterdir())
    assert not link.is_symlink()
    assert (target / "file").exists()


def test_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        only_regular(tmp_path / "pipe", os.O_RDONLY)
    with pytest.raises(OSError, match="cannot write"):
        append(tmp_path / "pipe", b"x")


def test_folder_is_searched_for_leftovers_once(tmp_path, monkeypatch):
    searched = []
    monkeypatch.setattr(files, "remove_dead", searched.append)
    for name in "abc":
        write_text(tmp_path / name, name)
    assert len(searched) == 1
