import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def imported_modules(path: Path) -> set[str]:
    package = path.relative_to(ROOT).parent.parts
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return names


def rooms(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imported_modules(path)}


def files_of(package: str) -> list[Path]:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    return files


@pytest.mark.parametrize("path", files_of("metrics"), ids=lambda path: str(path.relative_to(ROOT)))
def test_metrics_import_only_kernels_and_protocols_of_models(path):
    assert rooms(path).isdisjoint({"gan", "classification", "train_gan"})
    models = {name for name in imported_modules(path) if name.partition(".")[0] == "models"}
    assert all(name.startswith(("models.kernels", "models.protocols")) for name in models)


@pytest.mark.parametrize("path", files_of("models"), ids=lambda path: str(path.relative_to(ROOT)))
def test_models_import_neither_gan_nor_metrics(path):
    assert rooms(path).isdisjoint({"gan", "metrics", "classification", "train_gan"})


@pytest.mark.parametrize("path", files_of("gan"), ids=lambda path: str(path.relative_to(ROOT)))
def test_gan_does_not_import_the_command_line(path):
    assert "train_gan" not in rooms(path)


@pytest.mark.parametrize("path", files_of("gan"), ids=lambda path: str(path.relative_to(ROOT)))
def test_gan_knows_classification_by_name_alone(path):
    """`gan.compare.experiment_types` imports its config when a comparison asks for it."""
    assert rooms(path).isdisjoint({"classification", "train_classifier"})


@pytest.mark.parametrize("path", files_of("classification"), ids=lambda path: str(path.relative_to(ROOT)))
def test_classification_imports_nothing_that_only_gans_have(path):
    assert rooms(path).isdisjoint({"train_gan", "train_classifier"})
    only_gans = (
        "gan.training.experiment",
        "gan.training.ema",
        "gan.objectives.losses",
        "gan.evaluation.evaluator",
        "gan.evaluation.extractors",
        "gan.sample",
    )
    assert not [name for name in imported_modules(path) if name.startswith(only_gans)]


def test_the_loop_reads_no_yaml_and_builds_nothing():
    imported = imported_modules(ROOT / "gan" / "loop.py")
    assert imported.isdisjoint({"gan.options.loader", "gan.options.nodes", "gan.training.build", "yaml"})


def test_the_yaml_loader_knows_nothing_of_gans():
    for name in ("yaml_config", "yaml_nodes"):
        ours = {
            m for m in imported_modules(ROOT / "gan" / f"{name}.py") if m.startswith(("gan.", "models.", "metrics"))
        }
        allowed = ("gan.options.nodes", "gan.runtime.errors", "models.ranges", "models.registry")
        assert all(module.startswith(allowed) for module in ours)
