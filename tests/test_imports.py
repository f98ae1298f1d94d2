"""Imports go down: the contracts in pyproject.toml, and what benchmarks may import, which is no package."""

import ast

import pytest
from importlinter.cli import lint_imports
from paths import ROOT

BENCHMARKS = ROOT / "benchmarks"
STUDIES = [*BENCHMARKS.glob("study_*.py"), BENCHMARKS / "sweep_relu.py"]
PROGRAMS = {path.stem for path in BENCHMARKS.glob("*.py")}


def imported(path):
    """The top-level packages that a file imports, wherever it does."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield (node.module or "").partition(".")[0]


def test_the_contracts_are_kept(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert lint_imports(no_cache=True) == 0, capsys.readouterr().out


@pytest.mark.parametrize("path", [*STUDIES, *(BENCHMARKS / "study").glob("*.py")], ids=lambda path: path.stem)
def test_a_study_imports_the_library_of_studies_and_no_other_program(path):
    assert PROGRAMS & set(imported(path)) == set()


@pytest.mark.parametrize("package", ["mixaug", "mixaug_ext"])
def test_the_packages_import_no_program_and_no_test(package):
    tests = {path.stem for path in (ROOT / "tests").rglob("*.py")}
    for path in (ROOT / package).rglob("*.py"):
        assert (PROGRAMS | tests | {"study", "tests", "benchmarks"}) & set(imported(path)) == set(), path
