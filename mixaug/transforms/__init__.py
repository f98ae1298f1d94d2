"""What a torchvision pipeline uses."""

import importlib
from typing import Any

from mixaug._random import generator_states, load_generator_states
from mixaug.transforms.collate import DynamicMixCutCollate, LabelSmoothingCollate
from mixaug.transforms.dynamic_mixcut import DynamicMixCut, replay_dynamic_mixcut, sample_boxes
from mixaug.transforms.ipmix import IPMix
from mixaug.transforms.labels import smooth_labels

__all__ = [
    "DynamicMixCut",
    "DynamicMixCutCollate",
    "GeneratedMix",  # see __getattr__
    "IPMix",
    "LabelSmoothingCollate",
    "generator_states",
    "load_generator_states",
    "replay_dynamic_mixcut",
    "sample_boxes",
    "smooth_labels",
]


def __getattr__(name: str) -> Any:
    # By its name and at its first use: it is a transform, but stands above this package, on mixaug.adautomix.
    if name != "GeneratedMix":
        raise AttributeError(f"module 'mixaug.transforms' has no attribute {name!r}")
    return importlib.import_module("mixaug.adautomix.transform").GeneratedMix
