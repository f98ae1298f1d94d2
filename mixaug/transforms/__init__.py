"""What a torchvision pipeline uses."""

from typing import TYPE_CHECKING, Any

from mixaug._random import generator_states, load_generator_states
from mixaug.transforms._labels import smooth_labels
from mixaug.transforms.collate import DynamicMixCutCollate, LabelSmoothingCollate
from mixaug.transforms.dynamic_mixcut import DynamicMixCut
from mixaug.transforms.dynamic_mixcut_params import sample_boxes
from mixaug.transforms.dynamic_mixcut_replay import replay_dynamic_mixcut
from mixaug.transforms.ipmix import IPMix

if TYPE_CHECKING:
    from mixaug.transforms.generated_mix import GeneratedMix

__all__ = [
    "DynamicMixCut",
    "DynamicMixCutCollate",
    "GeneratedMix",
    "IPMix",
    "LabelSmoothingCollate",
    "generator_states",
    "load_generator_states",
    "replay_dynamic_mixcut",
    "sample_boxes",
    "smooth_labels",
]


def __getattr__(name: str) -> Any:
    # Imported at its first use: it needs mixaug.adautomix, which needs what is in this package.
    if name != "GeneratedMix":
        raise AttributeError(f"module 'mixaug.transforms' has no attribute {name!r}")
    from mixaug.transforms.generated_mix import GeneratedMix

    return GeneratedMix
