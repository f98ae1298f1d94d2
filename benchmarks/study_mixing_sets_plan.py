"""What the study of mixing sets trains: IPMix with each source, with all of them, and with pictures that show nothing.

Table 8 of the IPMix paper (H. Huang et al., NeurIPS 2023) says that IPMix is insensitive to its mixing set. Its
FractalDB is our IFS, its RCDB our contours; its sixth set, fractals with feature visualisations, is not made here.
"""

from __future__ import annotations

import argparse
from typing import Any

from study_ipmix import DataPlan

#: Name of the page's files, and of the folder of its runs on the images in the package.
KEY = "study_mixing_sets"
#: Variant on the page, and its name for ``TrainSettings.mixing_set``.
SOURCES = {
    "fractals": "fractals",
    "IFS": "ifs",
    "contours": "contours",
    "dead leaves": "dead-leaves",
    "spectrum": "spectrum",
}
MIXTURE = "all five"
#: Pictures that show nothing, made by the study: white noise, and one colour each.
PLAIN = {"noise": "noise", "flat colours": "flat"}
IMAGE_LEVEL, REFERENCE = "no pictures", "standard"
#: What is compared with the mean of the sources.
CONTROLS = (MIXTURE, *PLAIN, IMAGE_LEVEL, REFERENCE)
VARIANTS: dict[str, dict[str, Any]] = {
    REFERENCE: {"method": "standard"},
    **{label: {"method": "ipmix", "mixing_set": name} for label, name in SOURCES.items()},
    MIXTURE: {"method": "ipmix", "mixing_set": ",".join(SOURCES.values())},
    **{label: {"method": "ipmix"} for label in PLAIN},  # their folder is known when a run starts
    IMAGE_LEVEL: {"method": "ipmix", "levels": ("image",)},
}
#: Key of a figure, its heading. All are errors: lower is better. The first three are the paper's.
FIGURES = {
    "clean": "clean error",
    "mce": "corruption error",
    "rms": "RMS calibration error",
    "ece": "ECE",
}
TESTED = ("clean", "mce", "rms")
#: Table 8 of the paper: CIFAR-100, WRN-40-4, in percent, a run each.
PAPER = {
    "fractals": {"clean": 19.4, "mce": 28.6, "rms": 2.8},
    "IFS": {"clean": 20.0, "mce": 29.0, "rms": 5.4},
    "contours": {"clean": 19.5, "mce": 28.4, "rms": 3.2},
    "dead leaves": {"clean": 19.4, "mce": 29.1, "rms": 3.1},
    "spectrum": {"clean": 19.8, "mce": 29.2, "rms": 4.0},
}


def plans(options: argparse.Namespace) -> list[DataPlan]:
    """The data sets of this call: 12 epochs on 5,000 images, which keeps the whole below an hour on two cores."""
    small = 256 if options.quick else None
    epochs = options.epochs or (1 if options.quick else 12)
    images = options.images or (20 if options.quick else 1_000)
    label = "Fashion-MNIST, the subset in the package"
    embedded = DataPlan(KEY, label, "embedded", options.limit or small, epochs, images, VARIANTS)
    found = [] if options.cifar_only else [embedded]
    if options.cifar is not None:
        folder = f"folder:{options.cifar.expanduser().resolve()}"
        limit = options.limit or small or 5_000
        found.append(DataPlan(f"{KEY}_cifar10", "CIFAR-10 (JPEG copy)", folder, limit, epochs, images, VARIANTS))
    return found
