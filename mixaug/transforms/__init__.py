"""What a torchvision pipeline uses."""

from mixaug.transforms._labels import smooth_labels
from mixaug.transforms.collate import DynamicMixCutCollate, LabelSmoothingCollate
from mixaug.transforms.dynamic_mixcut import DynamicMixCut
from mixaug.transforms.dynamic_mixcut_params import sample_boxes
from mixaug.transforms.dynamic_mixcut_replay import replay_dynamic_mixcut
from mixaug.transforms.ipmix import IPMix

__all__ = [
    "DynamicMixCut",
    "DynamicMixCutCollate",
    "IPMix",
    "LabelSmoothingCollate",
    "replay_dynamic_mixcut",
    "sample_boxes",
    "smooth_labels",
]
