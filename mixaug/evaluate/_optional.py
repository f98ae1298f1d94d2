"""Libraries of the ``train`` extra, imported when they are first needed."""

from __future__ import annotations

import importlib
from types import ModuleType


def optional_import(module: str) -> ModuleType:
    """The module, or an ImportError that says what to install.

    Example:
        >>> optional_import("json").dumps(1)
        '1'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        library = module.partition(".")[0]
        if error.name is not None and error.name.partition(".")[0] != library:
            raise  # the library is there, one of its own dependencies is not
        raise ModuleNotFoundError(
            f'this needs {library}, which is not installed: pip install "mixaug[train]"', name=error.name
        ) from error
