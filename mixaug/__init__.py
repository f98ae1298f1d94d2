"""Mixing augmentations for torchvision pipelines that make image classifiers accurate and robust.

Everything is imported when it is first used: ``import mixaug`` and ``mixaug --help`` cost nothing, and numba, kornia,
matplotlib and torchmetrics are loaded only by what needs them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mixaug._moved import serve_moved_modules

if TYPE_CHECKING:
    from mixaug.adautomix import AdAutoMix
    from mixaug.adautomix.transform import GeneratedMix
    from mixaug.mixing_sets import MixingSet
    from mixaug.nn import DReLU, SReLU, add_drelu_head, drelu_penalty, replace_relu
    from mixaug.transforms import DynamicMixCut, DynamicMixCutCollate, IPMix, LabelSmoothingCollate

    __version__: str

__all__ = [
    "AdAutoMix",
    "DReLU",
    "DynamicMixCut",
    "DynamicMixCutCollate",
    "GeneratedMix",
    "IPMix",
    "LabelSmoothingCollate",
    "MixingSet",
    "SReLU",
    "__version__",
    "add_drelu_head",
    "drelu_penalty",
    "replace_relu",
]

_WHERE = {
    "AdAutoMix": "mixaug.adautomix",
    "DReLU": "mixaug.nn",
    "DynamicMixCut": "mixaug.transforms",
    "DynamicMixCutCollate": "mixaug.transforms",
    "GeneratedMix": "mixaug.adautomix.transform",
    "IPMix": "mixaug.transforms",
    "LabelSmoothingCollate": "mixaug.transforms",
    "MixingSet": "mixaug.mixing_sets",
    "SReLU": "mixaug.nn",
    "add_drelu_head": "mixaug.nn",
    "drelu_penalty": "mixaug.nn",
    "replace_relu": "mixaug.nn",
}

serve_moved_modules()


def __getattr__(name: str) -> Any:
    if name == "__version__":  # importlib.metadata takes longer than all the rest here
        value = importlib.import_module("importlib.metadata").version("mixaug")
    elif name not in _WHERE:
        raise AttributeError(f"module 'mixaug' has no attribute {name!r}")
    else:
        value = getattr(importlib.import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
