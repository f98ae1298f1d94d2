"""Sphinx settings: Markdown pages, and the reference from the docstrings."""

from importlib.metadata import version as _version

project = "mixaug"
copyright = "2026, the mixaug authors"
version = release = _version("mixaug")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax", "sphinx.ext.viewcode"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["**/README.md"]
autodoc_member_order = "bysource"
autodoc_typehints = "description"
html_theme = "furo"
html_title = f"mixaug {version}"
