"""The measures of the report, a file each; whatever file has a ``MEASURE`` takes part."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from typing import Any

from mixaug.evaluate.measure import Measure


@functools.cache
def all_measures() -> tuple[Measure[Any], ...]:
    """The measures in their order: each module of this folder that has one.

    Raises:
        ValueError: two measures of one name.

    Example:
        >>> [measure.name for measure in all_measures()][:3]
        ['curve', 'calibration', 'flips']
    """
    modules = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    found: list[Measure[Any]] = [module.MEASURE for module in modules if hasattr(module, "MEASURE")]
    names = [measure.name for measure in found]
    if len(set(names)) < len(names):
        raise ValueError(f"measures must have different names, got {', '.join(sorted(names))}")
    return tuple(sorted(found, key=lambda measure: measure.order))
