"""Layers and what changes them in existing models: capped activations; the generator of learned mixing."""

from __future__ import annotations

from mixaug.nn.activations import DReLU, SReLU
from mixaug.nn.caps import caps, drelu_penalty, param_groups, set_caps, shrink_caps
from mixaug.nn.head import add_drelu_head, add_drelu_stem
from mixaug.nn.mix_generator import MixGenerator
from mixaug.nn.replace import ReLUReport, ReLUSite, replace_relu

__all__ = [
    "DReLU",
    "MixGenerator",
    "ReLUReport",
    "ReLUSite",
    "SReLU",
    "add_drelu_head",
    "add_drelu_stem",
    "caps",
    "drelu_penalty",
    "param_groups",
    "replace_relu",
    "set_caps",
    "shrink_caps",
]
