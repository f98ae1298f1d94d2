"""Every Python snippet of the README and docs runs, every docstring example is true, every local link leads on."""

from __future__ import annotations

import contextlib
import doctest
import importlib
import io
import pkgutil
import re

import pytest
from paths import ROOT

import mixaug
import mixaug_ext

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
#: Their snippets are files, which tests of their own write and run.
GUIDES = ROOT / "docs" / "contributing"
SNIPPET = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
#: Modules whose examples run an optional package, and pages that run theirs.
NEEDS = {
    "mixaug.attacks.apgd": "pyautoattack",
    "mixaug.attacks.autoattack": "pyautoattack",
    "mixaug.attacks.square": "pyautoattack",
    "adversarial_training.md": "pyautoattack",
}
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")


def modules() -> list[str]:
    names = [mixaug.__name__, mixaug_ext.__name__]
    for package in (mixaug, mixaug_ext):
        names += [info.name for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
    return [name for name in names if not name.endswith(("__main__", "._kernels"))]


def skip_without_package(name: str) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])


@pytest.mark.parametrize(
    "page", [p for p in PAGES if p.parent != GUIDES and SNIPPET.search(p.read_text())], ids=lambda p: p.name
)
def test_snippets_run(page, tmp_path, monkeypatch):
    """The snippets of a page share one namespace, top to bottom, in an empty folder."""
    skip_without_package(page.name)
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__snippet__"}
    with contextlib.redirect_stdout(io.StringIO()):
        for match in SNIPPET.finditer(page.read_text()):
            line = page.read_text()[: match.start()].count("\n") + 1
            exec(compile("\n" * line + match.group(1), str(page), "exec"), namespace)
    assert len(namespace) > 1


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_local_links_lead_somewhere(page):
    targets = [link for link in LINK.findall(page.read_text()) if "://" not in link]
    assert [link for link in targets if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("name", modules())
def test_docstring_examples(name, tmp_path, monkeypatch):
    skip_without_package(name)
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0


def test_public_functions_and_classes_have_docstrings():
    missing = []
    for name in modules():
        module = importlib.import_module(name)
        assert module.__doc__, f"{name} has no docstring"
        for attribute, value in vars(module).items():
            if attribute.startswith("_") or getattr(value, "__module__", None) != name:
                continue
            if callable(value) and not value.__doc__:
                missing.append(f"{name}.{attribute}")
    assert missing == []
