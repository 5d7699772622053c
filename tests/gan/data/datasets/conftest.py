"""Archives in the original binary formats with a few images, served by a local HTTP server."""

import hashlib
import io
import pickle
import struct
import tarfile
import threading
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchvision import datasets


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch) -> Path:
    """An empty cache for each test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """Print nothing."""


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serve the files of a folder. Yield the folder and its URL."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = tmp_path / "server"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield folder, f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join(60)
        assert not thread.is_alive(), "the server has not ended"


class Python2Pickler(pickle._Pickler):
    """Writes pickles like Python 2, as in the files of CIFAR: text as byte strings and bools as integers."""

    dispatch = dict(pickle._Pickler.dispatch)  # noqa: RUF012

    def save_bytes(self, value):
        opcode = pickle.SHORT_BINSTRING + bytes([len(value)]) if len(value) < 256 else b""
        self.write((opcode or pickle.BINSTRING + struct.pack("<i", len(value))) + value)
        self.memoize(value)

    def save_text(self, value):
        self.save_bytes(value.encode("latin1"))

    def save_number(self, value):
        self.save_long(int(value))

    dispatch[bytes] = save_bytes
    dispatch[str] = save_text
    dispatch[bool] = save_number


def python2_pickle(value: Any) -> bytes:
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(value)
    return file.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


@dataclass
class Published:
    """A published dataset: its archive, and the images and labels of each file."""

    archive: Path
    folder: str
    content: dict[str, Any] = field(default_factory=dict)

    def unpack(self, root: Path) -> Path:
        with tarfile.open(self.archive) as tar:
            tar.extractall(root, filter="data")
        return root / self.folder


def publish(cls, files: dict[str, bytes], content: dict, server: tuple[Path, str], monkeypatch) -> Published:
    """Make the archive, and set its URL and checksums in torchvision's class."""
    folder, address = server
    path = folder / cls.filename
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(f"{cls.base_folder}/{name}")
            entry.size, entry.mtime = len(data), 1_240_000_000
            tar.addfile(entry, io.BytesIO(data))

    def md5(data: bytes) -> str:
        return hashlib.md5(data).hexdigest()

    monkeypatch.setattr(cls, "url", f"{address}/{cls.filename}")
    monkeypatch.setattr(cls, "tgz_md5", md5(path.read_bytes()))
    for attribute in ("train_list", "test_list"):
        monkeypatch.setattr(cls, attribute, [[name, md5(files[name])] for name, _ in getattr(cls, attribute)])
    if hasattr(cls, "meta"):
        monkeypatch.setattr(cls, "meta", cls.meta | {"md5": md5(files[cls.meta["filename"]])})
    return Published(path, cls.base_folder, content)


@pytest.fixture
def cifar10(server, monkeypatch) -> Published:
    """Five training batches and a test batch of three images each."""
    random = np.random.default_rng(0)
    files, content = {}, {}
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        pixels = random.integers(256, size=(3, 3072), dtype=np.uint8)
        labels = random.integers(10, size=3).tolist()
        names = [f"image_{i}.png" for i in range(3)]
        files[name] = python2_pickle({"batch_label": name, "labels": labels, "data": pixels, "filenames": names})
        content[name] = pixels, labels
    class_names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    files["batches.meta"] = python2_pickle({"num_cases_per_batch": 3, "label_names": class_names, "num_vis": 3072})
    files["readme.html"] = b"<html></html>"
    return publish(datasets.CIFAR10, files, content, server, monkeypatch)


@pytest.fixture
def cifar100(server, monkeypatch) -> Published:
    """Training and test batches of four images each, with fine and coarse labels."""
    random = np.random.default_rng(1)
    files, content = {}, {}
    for name in ("train", "test"):
        pixels = random.integers(256, size=(4, 3072), dtype=np.uint8)
        fine, coarse = random.integers(20, 100, size=4).tolist(), random.integers(20, size=4).tolist()
        files[name] = python2_pickle(
            {"filenames": list("abcd"), "batch_label": name, "fine_labels": fine, "coarse_labels": coarse}
            | {"data": pixels}
        )
        content[name] = pixels, fine
    names = {"fine_label_names": [f"fine {i}" for i in range(100)], "coarse_label_names": [f"c{i}" for i in range(20)]}
    files["meta"] = python2_pickle(names)
    return publish(datasets.CIFAR100, files, content, server, monkeypatch)


@pytest.fixture
def stl10(server, monkeypatch) -> Published:
    """Files of four images with 96 columns of 96 values for each color. Labels start at 1."""
    random = np.random.default_rng(2)
    files, content = {}, {}
    for name in ("train", "test", "unlabeled"):
        pixels = random.integers(256, size=(4, 3, 96, 96), dtype=np.uint8)
        files[f"{name}_X.bin"] = pixels.transpose(0, 1, 3, 2).tobytes()
        content[name] = pixels
    files["train_y.bin"] = bytes([1, 10, 3, 2])
    files["test_y.bin"] = bytes([5, 5, 1, 10])
    files["class_names.txt"] = b"airplane\nbird\ncar\ncat\ndeer\ndog\nhorse\nmonkey\nship\ntruck\n"
    files["fold_indices.txt"] = b"0 1\n"
    return publish(datasets.STL10, files, content, server, monkeypatch)
