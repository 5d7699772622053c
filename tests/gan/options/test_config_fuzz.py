"""Fuzzing of config files: arbitrary bytes are read as a config or refused with a one-line error."""

import copy
import functools
import os
import re
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gan.config import Config
from gan.options.loader import dump_config, load_config
from gan.options.nodes import ConfigError
from gan.runtime.errors import UserError
from train_gan import main

CONFIGS = [
    path
    for path in sorted((Path(__file__).parents[3] / "configs").rglob("*.yaml"))
    if path.parent.name != "classification"
]
fuzzed = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Fail if the body takes longer, even if it hangs in a system call."""

    def fail(*_: object) -> None:
        raise AssertionError(f"took more than {seconds} s")

    previous = signal.signal(signal.SIGALRM, fail)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def check(content: bytes, folder: Path, capsys) -> str:
    """Run the training command with the bytes as a config, and return its one-line message.

    The command is asked to resume a run that does not exist, so that even a valid config starts no training.
    """
    path = folder / "fuzzed.yaml"
    path.write_bytes(content)
    with time_limit(60):
        code = main(["--config", str(path), "--resume", "--out", str(folder / "no-run"), "--device", "cpu"])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    assert len(line) < 3000
    is_config = line.endswith("no-run contains no run (config.yaml is missing); give the folder of a run")
    if is_config:  # a valid config can be dumped and loaded again
        config = load_config(Config, path)
        path.write_bytes(dump_config(config).encode())
        assert load_config(Config, path) == config
    return line


@fuzzed
@given(content=st.binary(max_size=200))
def test_arbitrary_bytes(content, folder, capsys):
    check(content, folder, capsys)


TOKENS = """train: loss: data: name: steps: hinge r1 base: 1e-4 0x null \\U "\\0" !!int !x <<: *a &a ---"""
words = st.sampled_from([*TOKENS.split(" "), *"?:-{}[],'\"|>%#", " ", "\n", "\n  ", "\t", "\ufeff", "\x85", "\r"])


@fuzzed
@given(
    text=st.lists(st.one_of(words, st.text(max_size=3)), max_size=30).map("".join),
    encoding=st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-32"]),
)
def test_arbitrary_text_in_any_encoding(text, encoding, folder, capsys):
    check(text.encode(encoding, "surrogatepass"), folder, capsys)


# Valid configs with a few mutations: a value, a key or a byte is changed, or an entry is removed or copied

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, -1, 2**31, 2**63, 10**30, 10**400, 1e308, float("nan"), float("inf"), 5e-324]),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(
        ["hinge", "dcgan", "conv_norm", "spectral", "folder", "r1", "bf16", "~nobody/x", "a\0b", "\x1b[2J"]
    ),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.sampled_from(["name", "lr", "steps", "x"]), st.integers(), max_size=2),
)


def find_entries(tree: object) -> list[tuple[dict | list, object]]:
    """Return (collection, key or index) of all entries in a tree of plain values."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [entry for key, child in items for entry in ((tree, key), *find_entries(child))]


@st.composite
def mutated_configs(draw) -> bytes:
    tree = yaml.safe_load(draw(st.sampled_from(load_trees())))
    for _ in range(draw(st.integers(1, 4))):
        found = find_entries(tree)
        if not found:
            break
        collection, key = found[draw(st.integers(0, len(found) - 1))]
        match draw(st.sampled_from(["value", "value", "rename", "remove", "move"])):
            case "value":
                collection[key] = draw(scalars)
            case "rename" if isinstance(collection, dict):
                collection[draw(st.one_of(st.text(max_size=5), st.just(f"{key}s")))] = collection.pop(key)
            case "move":
                other, at = found[draw(st.integers(0, len(found) - 1))]
                collection[key] = copy.deepcopy(other[at])
            case _:
                del collection[key]
    content = bytearray(yaml.safe_dump(tree, allow_unicode=draw(st.booleans())).encode("utf-8", "surrogatepass"))
    for _ in range(draw(st.integers(0, 2)) if content else 0):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    return bytes(content)


@functools.cache
def load_trees() -> list[str]:
    return [dump_config(load_config(Config, path)) for path in CONFIGS[:: max(1, len(CONFIGS) // 6)]]


@settings(fuzzed, max_examples=60)
@given(content=mutated_configs())
def test_mutated_config(content, folder, capsys):
    check(content, folder, capsys)


def test_valid_config_passes_the_check(folder, capsys):
    assert check(load_trees()[0].encode(), folder, capsys).endswith(
        "contains no run (config.yaml is missing); give the folder of a run"
    )


# Inputs that fuzzing is unlikely to find

LAUGHS = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 30))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(LAUGHS.encode(), "more than 100000 values", id="billion laughs"),
        pytest.param(b"a: " + b"[" * 100_000, "nested too deeply", id="deep flow"),
        pytest.param("\n".join(" " * i + "a:" for i in range(1200)).encode(), "nested too deeply", id="deep block"),
        pytest.param(b"a: &a [*a]", "an alias contains itself", id="circle"),
        pytest.param(b"seed: " + b"9" * 900_000, "more than 1000 digits", id="digits"),
        pytest.param(b"seed: 0x" + b"f" * 900_000, "more than 1000 digits", id="hexadecimal digits"),
        pytest.param(f"# {'é' * 900_000}\nunknown: 3".encode(), "more than 1,000,000 bytes", id="two bytes each"),
        pytest.param(b"# " + b"x" * 30_000_000, "more than 1,000,000 bytes", id="30 MB"),
        pytest.param(b"x" * 900_000, "a config must be a mapping", id="a long word"),
        pytest.param(b"seed: !" + b"x" * 900_000, "is not allowed here", id="a long tag"),
        pytest.param(b"seed: 1\0", "#x0000", id="NUL"),
        pytest.param(b'data: {root: "a\\0b"}', ":1: a string with the character U+0000", id="NUL by escape"),
        pytest.param(b'data: {root: "\\ud800"}', ":1: a string with the character U+D800", id="surrogate"),
        pytest.param("seed: 1".encode("utf-16"), "not UTF-8 text", id="UTF-16"),
        pytest.param("seed: 1".encode("utf-16-le"), "not valid YAML", id="UTF-16 without a mark"),
        pytest.param("seed: é".encode("latin-1"), "not UTF-8 text (byte 6)", id="Latin-1"),
        pytest.param(b"base: /dev/zero", ":1: base: cannot read the config file /dev/zero", id="device"),
        pytest.param(b"base: pipe", "pipe: not a regular file", id="pipe"),
        pytest.param(b"base: loop", ":1: base: ", id="loop of links"),
        pytest.param(b"base: " + b"x" * 5000, "File name too long", id="long name"),
        pytest.param(b"base: .", "a folder; name a file in it", id="folder"),
    ],
)
def test_hostile_file_is_refused_in_bounded_time_and_memory(content, message, folder, capsys):
    if not (folder / "pipe").exists():
        os.mkfifo(folder / "pipe")
        (folder / "loop").symlink_to("loop")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    line = check(content, folder, capsys)
    assert message in line
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KiB


def test_byte_order_mark_is_ignored(folder):
    path = folder / "marked.yaml"
    path.write_bytes("seed: 7".encode("utf-8-sig"))
    assert load_config(Config, path).seed == 7


def test_long_message_is_shortened():
    with pytest.raises(ConfigError) as caught:
        load_config(Config, None, ["seed=" + "x" * 100_000])
    assert re.fullmatch(r"command line: seed=x{900,} \.\.\. x{900,}'", str(caught.value))


def test_long_list_on_the_command_line_needs_little_memory():
    names = ",".join(f"modes{i}" for i in range(2, 20_000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ConfigError, match="at most 100 metrics"):
        load_config(Config, None, [f"eval.metrics=[{names}]"])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KiB


def test_message_without_line_breaks():
    assert len(str(UserError("short\nlines"))) == 11


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["generator.width=9223372036854775807"], "generator.width: must be from 1 to 65536"),
        (["generator.z_dim=1" + "0" * 30], "generator.z_dim: must be from 1 to 65536"),
        (["generator=r3gan", "generator.blocks=2147483648"], "generator.blocks: must be from 1 to 1000"),
        (["train.batch_size=1" + "0" * 15], "is larger than the training set"),
        (["train.n_critic=1e9"], "train.n_critic: must be from 1 to 10000"),
        (["train.generator_batch_size=1e18"], "train.generator_batch_size: must be from 1 to 1e+06"),
        (["data.workers=1000000"], "data.workers: must be from 1 to 1000"),
        (["data=stacked_digits", "data.size=1" + "0" * 30], "data.size: must be from 2 to 1e+08"),
        (["discriminator.width=65536"], "GB are needed for checkpoints; free some space"),
    ],
)
def test_excessive_size_is_a_one_line_error(overrides, message, tmp_path, capsys):
    assert main(["--device", "cpu", "--out", str(tmp_path / "run"), *overrides]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "run").exists()
