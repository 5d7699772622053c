import math

import pytest

from gan.options.nodes import ConfigError, Node, parse_override, parse_yaml, read_layers


def plain(node: Node):
    match node.value:
        case dict():
            return {key: plain(child) for key, child in node.value.items()}
        case list():
            return [plain(child) for child in node.value]
    return node.value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E3", 1000.0),
        (".5", 0.5),
        ("-2.", -2.0),
        ("017", 17),
        ("0o17", 15),
        ("0x1F", 31),
        ("+3", 3),
        ("-.inf", -math.inf),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("null", None),
        ("", None),
        # YAML 1.1 reads these as booleans, numbers or dates.
        ("no", "no"),
        ("on", "on"),
        ("y", "y"),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("2024-01-31", "2024-01-31"),
        ("0b11", "0b11"),
        ("=", "="),
        ("e5", "e5"),
        ("'1e-4'", "1e-4"),
        ('"true"', "true"),
        ("!!str 5", "5"),
        ("!!float 5", 5.0),
    ],
)
def test_scalars_follow_yaml_1_2(text, value):
    read = plain(parse_yaml(f"key: {text}", "file"))["key"]
    assert read == value
    assert type(read) is type(value)


def test_nan():
    assert math.isnan(plain(parse_yaml("[.nan]", "file"))[0])


def test_empty_text_is_an_empty_mapping():
    assert plain(parse_yaml("# only a comment", "file")) == {}


def test_node_has_its_line():
    root = parse_yaml("a: 1\nb:\n  c: [2,\n      3]\n", "dir/file.yaml")
    assert root.value["a"].where == "dir/file.yaml:1"
    assert root.value["b"].value["c"].value[1].where == "dir/file.yaml:4"


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a: 1\nb: 2\na: 3", 3, "duplicate key 'a'"),
        ("a: 1\nb: {c: 1, c: 2}", 2, "duplicate key 'c'"),
        ("a: 1\n'a': 3", 2, "duplicate key 'a'"),
        ("a: 1\nb: !!python/name:os.system x", 2, "python/name:os.system"),
        ("a: !mine {b: 1}", 1, "!mine"),
        ("a: !!set {b}", 1, "set"),
        ("a: !!bool maybe", 1, "'maybe'"),
        ("a: !!int 1_0", 1, "'1_0'"),
        ("a: !!binary aGk=", 1, "binary"),
        ("a: 1\n? [x]\n: 2", 2, "a key must be a scalar"),
        ("a: [1, 2", 1, "not valid YAML"),
        ("a: 1\n\tb: 2", 2, "not valid YAML"),
        ("a: *nowhere", 1, "undefined alias"),
        ("a: 1\n---\nb: 2", 2, "another document"),
        ("a: 1\nb: " + "9" * 5000, 2, "digits"),
        ("a: 1\nb: 0x" + "f" * 5000, 2, "digits"),
    ],
)
def test_invalid_yaml_is_an_error_with_line(text, line, message):
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "file.yaml")
    assert str(caught.value).startswith(f"file.yaml:{line}: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("a: \x01", id="control character"),
        pytest.param('a: "\\UFFFFFFFF"', id="beyond unicode"),
        pytest.param("[" * 5000, id="deep"),
        pytest.param("&a [*a]", id="inside itself"),
        pytest.param(
            "\n".join(f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 9 if i else '1')}]" for i in range(7)),
            id="billion laughs",
        ),
    ],
)
def test_hostile_text_is_a_one_line_error(text):
    with pytest.raises(ConfigError, match=r"^file.yaml") as caught:
        parse_yaml(text, "file.yaml")
    assert "\n" not in str(caught.value)


def test_alias():
    assert plain(parse_yaml("a: &x {b: 1}\nc: *x", "file")) == {"a": {"b": 1}, "c": {"b": 1}}


def test_bases_come_first_and_are_relative_to_their_file(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "root.yaml").write_text("a: 1")
    (tmp_path / "deep" / "middle.yaml").write_text("base: ../root.yaml\na: 2")
    (tmp_path / "leaf.yaml").write_text("base: deep/middle.yaml\na: 3")
    assert [plain(layer) for layer in read_layers(tmp_path / "leaf.yaml")] == [{"a": 1}, {"a": 2}, {"a": 3}]


def test_circular_bases_are_an_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text("base: b.yaml")
    (tmp_path / "b.yaml").write_text("seed: 1\nbase: a.yaml")
    with pytest.raises(ConfigError, match=r"^b.yaml:2: base: circular inheritance: a.yaml -> b.yaml -> a.yaml"):
        read_layers(tmp_path / "a.yaml")


def test_missing_base_is_an_error_with_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text("seed: 1\nbase: gone.yaml")
    with pytest.raises(ConfigError, match=r"^a.yaml:2: base: cannot read .*gone.yaml: No such file"):
        read_layers(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"- 1\n- 2", r":1: a config must be a mapping of keys to values, not a list"),
        (b"word", r":1: a config must be a mapping of keys to values, not the string 'word'"),
        (b"base: [a.yaml]", r":1: 'base' must be the path of a YAML file, not a list"),
        (b"seed: \xff", r"not UTF-8 text \(byte 6\)"),
    ],
)
def test_file_that_is_not_a_config_is_an_error(tmp_path, content, message):
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=rf"a\.yaml.*{message}"):
        read_layers(tmp_path / "a.yaml")


@pytest.mark.parametrize("path", ["gone.yaml", ".", "nul\0.yaml"])
def test_unreadable_file_is_an_error(tmp_path, path):
    with pytest.raises(ConfigError, match="cannot read the config file"):
        read_layers(tmp_path / path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a=1", {"a": 1}),
        ("a.b.c=1e-3", {"a": {"b": {"c": 1e-3}}}),
        ("a.b=[1, x]", {"a": {"b": [1, "x"]}}),
        ("a={b: 1}", {"a": {"b": 1}}),
        ("a=x=y", {"a": "x=y"}),
        ("a.b=null", {"a": {"b": None}}),
        ("a.b=", {"a": {"b": None}}),
    ],
)
def test_override_is_a_nested_mapping(text, value):
    assert plain(parse_override(text)) == value


@pytest.mark.parametrize("text", ["a", "=1", "a..b=1", ".a=1", "a.=1", "a=[1", ""])
def test_malformed_override_is_an_error_that_repeats_it(text):
    with pytest.raises(ConfigError) as caught:
        parse_override(text)
    assert str(caught.value).startswith(f"command line: {text}:")
