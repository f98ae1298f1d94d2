"""Mixing augmentations for torchvision pipelines that make image classifiers accurate and robust.

Heavy parts (numba, kornia, matplotlib, torchmetrics) are imported when they are first used, not here.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from mixaug.transforms import IPMix

if TYPE_CHECKING:
    from mixaug.mixing_sets import MixingSet

__version__ = version("mixaug")
__all__ = ["IPMix", "MixingSet", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "MixingSet":
        from mixaug.mixing_sets import MixingSet

        return MixingSet
    raise AttributeError(f"module 'mixaug' has no attribute {name!r}")
