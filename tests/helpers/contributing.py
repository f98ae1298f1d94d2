"""The files that a page of docs/contributing asks for, taken from it to the letter."""

from __future__ import annotations

import re

from paths import ROOT


def files_of(page: str) -> dict[str, str]:
    """The text of each Python block of the page, by the path that its first line names."""
    text = (ROOT / "docs" / "contributing" / page).read_text()
    blocks = re.findall(r"^```python\n(# (\S+)\n.*?)^```", text, re.MULTILINE | re.DOTALL)
    return {path: code for code, path in blocks}
