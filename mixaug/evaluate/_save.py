"""A page with the files that lie beside it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from mixaug._files import atomic_path


def save_files(path: str | os.PathLike[str], page: str, data: dict[str, Any], pictures: dict[str, bytes]) -> Path:
    """Writes a page, its JSON and its pictures side by side, the page last."""
    target = Path(path)
    if target.suffix != ".html":
        raise ValueError(f"path must end in .html, got {str(path)!r}")
    for name, png in pictures.items():
        with atomic_path(target.with_name(f"{target.stem}-{name}.png")) as temporary:
            temporary.write_bytes(png)
    with atomic_path(target.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(data, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    with atomic_path(target) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return target
