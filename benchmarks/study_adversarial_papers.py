"""What the papers report of the methods and ablations of the adversarial study, in percent."""

from __future__ import annotations

_KEYS = ("clean", "fgsm", "pgd-20", "spsa", "cw-20", "lipschitz")
#: By variant, then by figure.
REPORTED: dict[str, dict[str, float]] = {
    "standard": dict(zip(_KEYS, (96.4, 20.6, 0.0, 0.0, 0.0, 566.7), strict=True)),
    "PGD AT": dict(zip(_KEYS, (81.4, 52.4, 44.6, 54.0, 44.5, 7.1), strict=True)),
    "TRADES": dict(zip(_KEYS, (82.0, 57.9, 52.2, 58.7, 50.0, 23.5), strict=True)),
    "Feature Scatter": dict(zip(_KEYS, (91.4, 73.7, 57.5, 52.5, 49.8, 8.4), strict=True)),
    "Dynamic MixCut": dict(zip(_KEYS, (89.5, 74.8, 70.4, 76.5, 82.8, 1.27), strict=True)),
    "1 box": {"clean": 95.3, "pgd-20": 69.1, "best": 84.2},
    "2 boxes": {"clean": 96.0, "pgd-20": 79.3, "best": 86.9},
    "3 boxes": {"clean": 95.9, "pgd-20": 71.1, "best": 85.3},
    "4 boxes": {"clean": 96.0, "pgd-20": 73.4, "best": 86.9},
    "5 boxes": {"clean": 96.0, "pgd-20": 74.3, "best": 86.4},
    "6 boxes": {"clean": 96.1, "pgd-20": 77.9, "best": 88.7},
    "whole image, untargeted": {"clean": 81.5, "pgd-20": 44.3, "lipschitz": 71.4},
    "whole image, targeted": {"clean": 86.4, "pgd-20": 40.1, "lipschitz": 133.9},
    "boxes, untargeted": {"clean": 86.3, "pgd-20": 59.1, "lipschitz": 1.63},
    "boxes, targeted": {"clean": 89.8, "pgd-20": 67.7, "lipschitz": 1.35},
}
#: Where the figures of a variant come from.
_MIXCUT = "the Dynamic MixCut paper, ResNet-18, CIFAR-10, 400 epochs, 8/255"
SOURCES = {"PGD AT": _MIXCUT, "2 boxes": "its Table 2, SVHN, 400 epochs", "whole image, untargeted": _MIXCUT}
#: Of the hybrid paper's Tables 1 and 3, ResNet-18 on CIFAR-10: 5.3 to 6.9 hours, 8.5 to 9.7 GB.
HYBRID_TIME, HYBRID_MEMORY = 30, 14
HYBRID_GAPS = (62.7, 33.2)
